// The overview answers first: the verdict, stated facts, the strongest rows for the filtered queries and the rows
// that oppose them; then the matrix of groups and the distribution of scores.

const MOST_GROUPS = 60;
const ANSWERS = 8;

function card(title, note, ...content) {
  return make("section", "card", make("h2", "", title), note ? make("p", "note", note) : null, ...content);
}

// Builds the overview; returns `update(state, chosen, figures)` for what follows the filters.
function buildOverview(box, act) {
  const [answer, matrix, distribution] = [make("div", "answer"), make("div", "matrix"), make("div", "grow")];
  const scored = "Of the rows shown: each query's highest and lowest. A score is relative to the average row.";
  const parts = [];
  if (data.note) parts.push(foreign("p", "story", data.note));
  if (data.verdict) parts.push(verdictCard(act));
  if (data.facts.length) parts.push(factList());
  parts.push(answer);
  if (columns.length) parts.push(matrix);
  parts.push(card("Scores", scored, distribution));
  box.replaceChildren(...parts);

  let centre = queryGroups.length > 1 ? "column" : "none";
  let drawn = { key: null, mark: () => {} };
  const drawMatrix = (state) => {
    // The matrix sets the filter of the groups, so it shows all of them and marks those that are chosen.
    const key = JSON.stringify([state.search, state.showing, centre]);
    if (key !== drawn.key) {
      const chosen = chosenQueries({ ...state, sort: "file" }, false);
      const setCentre = (name) => {
        centre = name;
        drawMatrix(state);
      };
      const made = groupMatrix(chosen, centre, setCentre, act);
      drawn = { key, mark: made.mark };
      matrix.replaceChildren(made.section);
    }
    drawn.mark(state.queryGroup, state.column);
  };
  return (state, chosen, figures) => {
    answer.replaceChildren(...answers(chosen, figures, act));
    if (columns.length) drawMatrix(state);
    distribution.replaceChildren(
      histogram([
        { name: "Highest scores", values: scores("proponents", chosen) },
        { name: "Lowest scores", values: scores("opponents", chosen) },
      ]),
    );
  };
}

// What fine-tuning without (or with) the rows in question really did to the answers.
function verdictCard(act) {
  const table = make("table", "arms");
  const head = make("tr", "");
  for (const title of ["Fine-tuned on", "Rows", "Loss of the queries", "Loss of the controls"]) {
    head.append(make("th", "", title));
  }
  table.append(head);
  for (const arm of data.verdict.arms) {
    const line = make("tr", "");
    const controls = arm.control_loss === null ? "\u2013" : arm.control_loss.toFixed(3);
    line.append(
      foreign("th", "", arm.name),
      make("td", "", String(arm.rows)),
      make("td", "", arm.query_loss.toFixed(3)),
      make("td", "", controls),
    );
    table.append(line);
  }
  const { sentence } = data.verdict;
  const words = foreign("p", "verdict", sentence.charAt(0).toUpperCase() + sentence.slice(1));
  const note = "Mean losses in nats: a higher loss makes an answer less likely.";
  const shown = data.verdict.rows.map((id) => rowPositions.get(id)).filter((row) => row !== undefined);
  const title = shown.length === 1 ? "Show this row" : `Show these ${shown.length} rows`;
  const of = shown.length < data.verdict.rows.length ? ` of ${data.verdict.rows.length}` : "";
  const show = shown.length ? button("quiet show-verified", title + of, () => act.showSelected(shown)) : null;
  return card("Verified on the language model", note, words, make("div", "heat-scroll", table), show);
}

function factList() {
  const list = make("dl", "facts");
  for (const [name, value] of data.facts) {
    list.append(make("div", "", foreign("dt", "", name), foreign("dd", "", value)));
  }
  return list;
}

// The strongest rows for some queries, and the real opponents: rows whose scores are below 0.
function answers(chosen, figures, act) {
  const of = chosen.length < everyQuery.length ? "the filtered queries" : "all queries";
  const best = strongestRows(figures.strength);
  const against = strongestRows(figures.against);
  const first = best.length
    ? "Strength: as good as the first row of so many queries."
    : "No row that is shown has a score above 0.";
  const none = "No row that is shown has a score below 0, so none opposes these queries.";
  const strongest = card(
    `Strongest rows for ${of}`,
    first,
    answerLines(best, "strength", figures, act),
    against.length ? null : make("p", "note apart", none),
  );
  if (!against.length) {
    strongest.classList.add("alone");
    return [strongest];
  }
  const lowered = "Scores below 0: less help than the average row gives, or harm.";
  const opposing = card(`Opponents of ${of}`, lowered, answerLines(against, "against", figures, act));
  return [make("div", "pair", strongest, opposing)];
}

function strongestRows(values) {
  const rows = [];
  values.forEach((value, row) => {
    if (value > 0) rows.push(row);
  });
  return rows.sort((a, b) => values[b] - values[a] || a - b);
}

// The first of some rows, with bars of the figure `name`, and a button for all.
function answerLines(rows, name, figures, act) {
  const values = figures[name];
  const lines = rows.slice(0, ANSWERS).map((row) => {
    const line = button("answer-line", "", () => act.openRow(row));
    const bar = make("span", "split", make("i", name === "against" ? "negative" : "positive"));
    bar.firstChild.style.width = `${(100 * values[row]) / values[rows[0]]}%`;
    bar.setAttribute("aria-hidden", "true");
    const head = make("span", "answer-head", foreign("span", "id", train.id[row]), groupTag(train, row), fieldLine(row));
    const shown =
      name === "against"
        ? `below 0 for ${count(figures.below[row], "query", "queries")}`
        : `in ${count(figures.queries[row], "query", "queries")}, mean ${score(figures.mean[row])}`;
    const figure = make("span", "answer-figure", strengthText(values[row]));
    line.append(head, figure, shortText(train, row), bar, make("span", "answer-count", shown));
    return line;
  });
  const box = make("div", "answers", ...lines);
  if (rows.length > ANSWERS) {
    const all = `All ${rows.length.toLocaleString("en")} rows`;
    box.append(button("quiet", all, () => act.showRows(name)));
  }
  return box;
}

function groupMatrix(chosen, centre, setCentre, act) {
  const { means, sizes } = groupMeans(chosen);
  const strongest = columns.map((_, column) =>
    means.reduce((most, line) => Math.max(most, Math.abs(line[column]) || 0), 0),
  );
  const rowsKept = largest(sizes, MOST_GROUPS).filter((row) => sizes[row] > 0);
  const columnsKept = largest(strongest, MOST_GROUPS);
  const unit = measured ? "mean influence" : "share of the proponents";
  const signedPercent = (value) => (value < 0 ? MINUS : "") + percent(Math.abs(value));
  const values = rowsKept.map((row) => columnsKept.map((column) => means[row][column]));
  const heat = heatMap({
    rowNames: rowsKept.map((row) => ({ short: shortQueryGroups[row], full: queryGroups[row] })),
    columnNames: columnsKept.map((column) => ({ short: shortColumns[column], full: columns[column] })),
    values: centred(values, centre),
    format: measured ? (value, scale) => score(value, scale).replace(/^\+/, "") : signedPercent,
    describe: (row, column) => {
      if (row < 0) return columns[columnsKept[column]];
      const group = rowsKept[row];
      const asked = count(sizes[group], "query", "queries");
      if (column < 0) return `${queryGroups[group]}: ${asked}`;
      const from = columnsKept[column];
      return `${queryGroups[group]} \u2190 ${columns[from]}: ${unit} ${groupFormat(means[group][from])} over ${asked}`;
    },
    pick: (row, column) => act.filterGroups(row < 0 ? -1 : rowsKept[row], column < 0 ? -1 : columnsKept[column]),
  });
  const withQueries = sizes.filter((size) => size > 0).length;
  const cut = rowsKept.length < withQueries || columnsKept.length < columns.length;
  const note = measured
    ? "Mean influence of each group of training rows (columns) on the queries of each group (rows). "
    : "Share of the proponents that come from each group of training rows (columns), by group of queries (rows). ";
  const kept =
    ` Shown: ${rowsKept.length} of ${withQueries} rows, ${columnsKept.length} of ${columns.length} columns.`;
  const section = card("Which data moved which queries", note + CENTRES[centre].note + (cut ? kept : ""), heat.box);
  if (values.length > 1 || columnsKept.length > 1) section.firstChild.after(centreSwitch(centre, setCentre));
  return { section, mark: (row, column) => heat.mark(rowsKept.indexOf(row), columnsKept.indexOf(column)) };
}

function centreSwitch(centre, setCentre) {
  const choices = Object.entries(CENTRES).map(([name, { label }]) => {
    const choice = button("", label, () => setCentre(name));
    choice.setAttribute("aria-pressed", name === centre);
    return choice;
  });
  const box = make("div", "switch", ...choices);
  box.setAttribute("role", "group");
  box.setAttribute("aria-label", "What the colours compare");
  return box;
}

// The positions of the `limit` largest values, in their own order.
function largest(values, limit) {
  const positions = values.map((_, position) => position);
  if (values.length <= limit) return positions;
  positions.sort((a, b) => values[b] - values[a]);
  return positions.slice(0, limit).sort((a, b) => a - b);
}
