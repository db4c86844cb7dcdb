// The state of the page, and what changes it. The view, the query and the row are in the address (#query=ID,
// #row=ID), so that the browser's own back button works and each can be linked to.

const byId = (id) => document.getElementById(id);
const QUERY_HEIGHT = 78;

// `queryGroup`, `column`, `showing` (a row) and `search` filter the queries; `query` and `row` are open.
const state = {
  view: "overview",
  query: -1,
  row: -1,
  search: "",
  sort: "file",
  queryGroup: -1,
  column: -1,
  showing: -1,
  rowSearch: "",
  rowSort: "strength",
  onlySelected: false,
};
let chosen = everyQuery;
let figures = null; // of the rows over `chosen`; made when a view needs them
const queryPositions = new Map(queries.id.map((id, query) => [id, query]));

const act = {
  filterGroups(queryGroup, column) {
    const same = state.queryGroup === queryGroup && state.column === column;
    setFilters(same ? { queryGroup: -1, column: -1 } : { queryGroup, column });
    if (!same) showList();
  },
  filterColumn(column) {
    setFilters({ column: state.column === column ? -1 : column });
  },
  filterRow(row) {
    setFilters({ showing: row });
    go("#queries");
  },
  step(by) {
    const query = chosen[chosen.indexOf(state.query) + by];
    if (query !== undefined) act.openQuery(query);
  },
  stepRow(by) {
    const row = rowsView.rows[rowsView.rows.indexOf(state.row) + by];
    if (row !== undefined) act.openRow(row);
  },
  openQuery(query) {
    if (query !== undefined) go(`#query=${encodeURIComponent(queries.id[query])}`);
  },
  openRow(row) {
    go(`#row=${encodeURIComponent(train.id[row])}`);
  },
  showRows(rowSort = state.rowSort) {
    act.setRows({ rowSort });
    go("#rows");
  },
  setRows(changes) {
    Object.assign(state, changes);
    drawRows();
  },
  toggleRow(row) {
    rowsView.toggle(row);
    drawMain();
  },
  showSelected(rows) {
    rowsView.selected = new Set(rows);
    Object.assign(state, { onlySelected: true, rowSearch: "" });
    go("#rows");
  },
  back() {
    go("#queries");
  },
};

const list = new VirtualList(byId("list"), {
  height: () => QUERY_HEIGHT,
  fill: (position) => queryLine(chosen[position]),
  pick: (position) => act.openQuery(chosen[position]),
});
const updateOverview = buildOverview(byId("overview"), act);
const rowsView = new RowsView(byId("rows"), act);

function queryLine(query) {
  const prompt = queries.prompt[query];
  const value = shownValue(query, state);
  const shown = value === undefined ? "\u2013" : state.sort === "column" ? groupFormat(value) : score(value);
  const foot = make("div", "row-foot", foreign("span", "id", queries.id[query]), make("span", "number", shown));
  const line = make("div", "row");
  line.append(
    foreign("div", "row-prompt", prompt ?? queries.response[query]),
    foreign("div", "row-response", prompt === null ? "" : queries.response[query]),
    foot,
  );
  return line;
}

function setFilters(changes) {
  Object.assign(state, changes);
  if (changes.column !== undefined) {
    if (changes.column >= 0) state.sort = "column";
    else if (state.sort === "column") state.sort = "file";
  }
  chosen = chosenQueries(state);
  figures = null;
  byId("list").scrollTop = 0;
  drawList();
  drawMain();
}

function drawList() {
  list.reset(chosen.length, chosen.indexOf(state.query));
  const column = measured ? "Influence of" : "Share of";
  const nameOf = (name) => (name === "column" ? `${column} ${columns[state.column]}` : ORDERS[name].name);
  const shown = state.sort === "file" ? "Influence" : nameOf(state.sort);
  byId("measure").textContent = shown.charAt(0).toLowerCase() + shown.slice(1);
  byId("count").textContent =
    chosen.length === everyQuery.length
      ? count(chosen.length, "query", "queries")
      : `${chosen.length.toLocaleString("en")} of ${count(everyQuery.length, "query", "queries")}`;
  const orders = Object.keys(ORDERS).filter((name) => name !== "column" || state.column >= 0);
  byId("sort").replaceChildren(
    ...orders.map((name) => {
      const option = make("option", "", nameOf(name));
      option.value = name;
      return option;
    }),
  );
  byId("sort").value = state.sort;
  const chips = [];
  const chip = (what, name, clear) => {
    const close = button("chip", "", () => setFilters(clear));
    close.append(make("span", "what", what), foreign("b", "", name), make("span", "cross", "\u00d7"));
    close.setAttribute("aria-label", `Remove filter: ${what} ${name}`);
    chips.push(close);
  };
  if (state.queryGroup >= 0) chip("Queries of", queryGroups[state.queryGroup], { queryGroup: -1 });
  if (state.column >= 0) chip("Rows of", columns[state.column], { column: -1 });
  if (state.showing >= 0) chip("Show row", train.id[state.showing], { showing: -1 });
  byId("chips").replaceChildren(...chips);
}

function drawMain() {
  const opened = (state.view === "queries" && state.query >= 0) || (state.view === "rows" && state.row >= 0);
  byId("panes").dataset.view = state.view;
  byId("panes").dataset.open = opened;
  for (const view of ["overview", "queries", "rows"]) {
    byId(`show-${view}`).setAttribute("aria-current", state.view === view);
  }
  if (state.view === "overview") updateOverview(state, chosen, rowFiguresNow());
  if (state.view === "rows") drawRows();
  else if (state.view === "queries" && opened) {
    drawDetail(byId("detail"), state.query, { number: chosen.indexOf(state.query), of: chosen.length }, state, act);
  } else {
    const empty = state.view === "queries" ? [make("p", "empty", "Choose a query from the list.")] : [];
    byId("detail").replaceChildren(...empty);
  }
}

function drawRows() {
  if (state.view !== "rows") return;
  rowsView.update(state, chosen, rowFiguresNow());
  if (state.row < 0) {
    byId("detail").replaceChildren();
    return;
  }
  const place = { number: rowsView.rows.indexOf(state.row), of: rowsView.rows.length };
  const selected = rowsView.selected.has(state.row);
  drawRow(byId("detail"), state.row, { chosen, figures, place, selected, act });
}

function rowFiguresNow() {
  figures ??= rowFigures(chosen);
  return figures;
}

// Where list and view do not fit side by side, a filter leads to the list that it filtered.
function showList() {
  if (!wide()) go("#queries");
}

function wide() {
  return matchMedia("(min-width: 861px)").matches;
}

// Steps from query to query (and row to row) replace each other in the history; a change of the view adds to it.
function go(hash) {
  if (hash === location.hash) return;
  const kind = (address) => address.split("=")[0];
  const replace = hash.includes("=") && kind(hash) === kind(location.hash);
  history[replace ? "replaceState" : "pushState"](null, "", hash);
  route();
}

function route() {
  const [name, id] = location.hash.slice(1).split("=");
  state.query = name === "query" ? (queryPositions.get(decode(id)) ?? -1) : -1;
  state.row = name === "row" ? (rowPositions.get(decode(id)) ?? -1) : -1;
  if (name === "query" || name === "queries") state.view = "queries";
  else state.view = name === "row" || name === "rows" ? "rows" : "overview";
  list.select(chosen.indexOf(state.query), true);
  drawMain();
  byId("main").scrollTop = 0;
}

function decode(text) {
  try {
    return decodeURIComponent(text);
  } catch {
    return ""; // an address that somebody cut: no query
  }
}

function start() {
  byId("title").textContent = data.title;
  const [queryTotal, trainTotal] = data.totals;
  const shown = (number, total, ...names) =>
    number === total ? count(number, ...names) : `${number.toLocaleString("en")} of ${count(total, ...names)}`;
  byId("summary").textContent =
    `${shown(everyQuery.length, queryTotal, "query", "queries")}, ` +
    `${shown(train.id.length, trainTotal, "training row")} shown`;

  byId("show-overview").addEventListener("click", () => go("#overview"));
  byId("show-rows").addEventListener("click", () => go("#rows"));
  byId("show-queries").addEventListener("click", () => {
    if (state.view === "queries") return;
    if (wide() && chosen.length) act.openQuery(chosen[0]);
    else go("#queries");
  });
  afterTyping(byId("search"), (search) => setFilters({ search }));
  byId("sort").addEventListener("change", (event) => setFilters({ sort: event.target.value }));
  document.addEventListener("keydown", (event) => {
    const typing = event.target.closest("input, select, textarea");
    if (event.key === "/" && !typing) {
      event.preventDefault();
      byId(state.view === "rows" ? "row-search" : "search").focus();
    }
  });
  window.addEventListener("popstate", route);
  window.addEventListener("hashchange", route);
  startTheme();
  drawList();
  route();
}

// Follows the system until the reader decides; the decision is kept where the browser allows that.
function startTheme() {
  const root = document.documentElement;
  const system = matchMedia("(prefers-color-scheme: dark)");
  const dark = () => (root.dataset.theme ? root.dataset.theme === "dark" : system.matches);
  const kept = storage((store) => store.getItem("airrep-theme"));
  if (kept === "dark" || kept === "light") root.dataset.theme = kept;
  byId("theme").addEventListener("click", () => {
    root.dataset.theme = dark() ? "light" : "dark";
    storage((store) => store.setItem("airrep-theme", root.dataset.theme));
  });
}

function storage(use) {
  try {
    return use(localStorage);
  } catch {
    return null; // forbidden for files in some browsers; the theme is then chosen anew each time
  }
}

start();
