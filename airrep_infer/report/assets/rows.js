// The view of the training rows: figures over the filtered queries; sort, search, select, copy, download.

const ROW_COLUMNS = [
  { order: "queries", title: "Queries", text: (figures, row) => figures.queries[row].toLocaleString("en") },
  { order: "high", title: "Mean", text: (figures, row) => score(figures.mean[row]) },
  { order: "strongest", title: "Strongest", text: (figures, row) => score(figures.strongest[row]) },
  { order: "strength", title: "Strength", text: (figures, row) => strengthText(figures.strength[row]) },
];
const SELECTED_FILE = "rows.jsonl";

class RowsView {
  constructor(box, act) {
    this.box = box;
    this.act = act;
    this.selected = new Set();
    this.rows = [];
    this.figures = null;
    this.note = make("p", "note");
    this.total = make("span", "rows-total");
    this.total.setAttribute("aria-live", "polite");
    this.buildTools();
    const listBox = make("div", "list lines");
    listBox.id = "rows-list";
    listBox.tabIndex = 0;
    listBox.setAttribute("role", "listbox");
    listBox.setAttribute("aria-multiselectable", "true");
    listBox.setAttribute("aria-label", "Training rows");
    box.replaceChildren(this.tools, this.heads, listBox);
    this.list = new VirtualList(listBox, {
      height: () => (wide() ? 62 : 92),
      fill: (position) => this.line(this.rows[position]),
      pick: (position, event) => {
        if (event.target.closest(".check")) this.toggle(this.rows[position]);
        else act.openRow(this.rows[position]);
      },
      move: (position) => this.list.select(position, true),
      mark: (line, position, current) => this.mark(line, this.rows[position], position === current),
      toggle: (position) => this.toggle(this.rows[position]),
    });
  }

  buildTools() {
    this.search = make("input");
    this.search.id = "row-search";
    this.search.type = "search";
    this.search.placeholder = "Search rows";
    this.search.setAttribute("aria-label", "Search rows");
    this.search.autocomplete = "off";
    this.search.spellcheck = false;
    afterTyping(this.search, (rowSearch) => this.act.setRows({ rowSearch }));
    this.sort = make("select");
    this.sort.id = "row-sort";
    this.sort.setAttribute("aria-label", "Sort rows");
    this.sort.append(
      ...Object.entries(ROW_ORDERS).map(([value, { name }]) => {
        const option = make("option", "", name);
        option.value = value;
        return option;
      }),
    );
    this.sort.addEventListener("change", () => this.act.setRows({ rowSort: this.sort.value }));
    this.every = button("quiet", "Select all", () => this.selectAll());
    this.only = button("quiet", "Only selected", () => this.act.setRows({ onlySelected: !state.onlySelected }));
    this.none = button("quiet", "Clear", () => this.clear());
    this.copy = button("quiet", "Copy ids", () => this.copyIds());
    this.download = button("quiet", "Download ids", () => this.downloadIds());
    this.download.title = `For airrep-train verify --rows ${SELECTED_FILE}`;
    const filter = button("quiet to-queries", "Filter the queries", () => this.act.back());
    this.tools = make(
      "div",
      "rows-tools",
      make("div", "tools", this.search, this.sort),
      make("div", "rows-actions", this.total, this.every, this.only, this.none, this.copy, this.download),
      make("div", "rows-note", this.note, filter),
    );
    this.headings = ROW_COLUMNS.map(({ order, title }) => button("", title, () => this.act.setRows({ rowSort: order })));
    this.heads = make("div", "line heads", make("span"), make("span", "", "Training row"), ...this.headings);
  }

  update(state, chosen, figures) {
    this.figures = figures;
    this.sorted = ROW_ORDERS[state.rowSort];
    this.rows = chosenRows(figures, state, state.onlySelected ? this.selected : null);
    this.sort.value = state.rowSort;
    if (this.search.value !== state.rowSearch) this.search.value = state.rowSearch;
    this.only.setAttribute("aria-pressed", state.onlySelected);
    this.headings.forEach((heading, number) => {
      heading.setAttribute("aria-pressed", ROW_COLUMNS[number].order === state.rowSort);
    });
    const over =
      chosen.length < everyQuery.length
        ? `${chosen.length.toLocaleString("en")} filtered of ${count(everyQuery.length, "query", "queries")}`
        : `all ${count(everyQuery.length, "query", "queries")}`;
    this.note.textContent =
      `Over ${over}. Mean and strongest score: of the queries that show the row. ` +
      "Strength: as good as the first row of so many queries; verify --rows has this order.";
    this.list.box.scrollTop = 0;
    this.list.reset(this.rows.length, this.rows.indexOf(state.row));
    this.tell();
  }

  line(row) {
    const check = make("span", "check");
    const head = make("div", "line-head", foreign("span", "id", train.id[row]), groupTag(train, row), fieldLine(row));
    const { name, figure, format } = this.sorted;
    const foot = [count(this.figures.queries[row], "query", "queries")];
    if (figure !== null && figure !== "queries") foot.push(`${name.toLowerCase()} ${format(this.figures[figure][row])}`);
    const text = make("div", "line-text", head, shortText(train, row));
    text.append(make("div", "line-foot", foot.join(", ")));
    const figures = ROW_COLUMNS.map(({ text: textOf }) => make("span", "number", textOf(this.figures, row)));
    return make("div", "line", check, text, ...figures);
  }

  mark(line, row, isCurrent) {
    line.setAttribute("aria-selected", this.selected.has(row));
    line.classList.toggle("current", isCurrent);
  }

  // The selected rows in the order of the list, then those that the filters hide; without a selection all listed.
  wanted() {
    if (!this.selected.size) return this.rows;
    const listed = this.rows.filter((row) => this.selected.has(row));
    const seen = new Set(listed);
    return [...listed, ...[...this.selected].filter((row) => !seen.has(row))];
  }

  toggle(row) {
    if (!this.selected.delete(row)) this.selected.add(row);
    this.list.markAll();
    this.tell();
  }

  selectAll() {
    for (const row of this.rows) this.selected.add(row);
    this.list.markAll();
    this.tell();
  }

  clear() {
    this.selected.clear();
    this.act.setRows({ onlySelected: false });
  }

  tell() {
    const number = this.selected.size.toLocaleString("en");
    const rows = count(this.rows.length, "row");
    this.total.textContent = this.selected.size ? `${number} selected, ${rows} listed` : `${rows} listed`;
    this.every.disabled = !this.rows.length;
    this.none.disabled = !this.selected.size;
    this.only.disabled = !this.selected.size;
    const of = this.selected.size ? `of ${number} selected` : `of all ${this.rows.length.toLocaleString("en")}`;
    this.copy.textContent = `Copy ids ${of}`;
    this.download.textContent = `Download ids ${of}`;
  }

  async copyIds() {
    const ids = this.wanted().map((row) => train.id[row]);
    await copyText(`${ids.join("\n")}\n`);
    this.copy.textContent = `Copied ${count(ids.length, "id")}`;
  }

  downloadIds() {
    const lines = this.wanted().map((row) => `${JSON.stringify({ id: train.id[row] })}\n`);
    const link = make("a");
    link.href = URL.createObjectURL(new Blob(lines, { type: "application/jsonl" }));
    link.download = SELECTED_FILE;
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 1000);
  }
}

// The beginnings of prompt and response, in one line.
function shortText(side, row) {
  const box = make("div", "short-text");
  if (side.prompt[row] !== null) box.append(foreign("span", "short-prompt", side.prompt[row].slice(0, SHORT_CHARS)));
  box.append(foreign("span", "short-response", side.response[row].slice(0, SHORT_CHARS)));
  return box;
}

// Pages from disk may not use the clipboard in every browser; a selected text can be copied in all.
async function copyText(text) {
  try {
    await navigator.clipboard.writeText(text);
  } catch {
    const box = make("textarea", "offscreen");
    box.value = text;
    document.body.append(box);
    box.select();
    document.execCommand("copy");
    box.remove();
  }
}

// Tells of an input's text when the typing pauses.
function afterTyping(input, act) {
  let waiting = 0;
  input.addEventListener("input", () => {
    clearTimeout(waiting);
    waiting = setTimeout(() => act(input.value), 60);
  });
}
