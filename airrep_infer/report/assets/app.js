// The state of the page, and what changes it. The view and the query are in the address (#query=ID), so that
// the browser's own back button works and a query can be linked to.

const byId = (id) => document.getElementById(id);
const ROW_HEIGHT = 78;

const state = { view: "overview", query: -1, search: "", sort: "file", queryGroup: -1, column: -1, row: -1 };
let chosen = everyQuery;
const positions = new Map(queries.id.map((id, query) => [id, query]));

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
    const same = state.row === row;
    setFilters({ row: same ? -1 : row });
    if (!same) showList();
  },
  step(by) {
    const at = chosen.indexOf(state.query) + by;
    if (chosen[at] !== undefined) open(chosen[at]);
  },
  back() {
    go("#queries");
  },
};

const list = new VirtualList(byId("list"), ROW_HEIGHT, listRow, (at) => open(chosen[at]));
const updateOverview = buildOverview(byId("overview"), act);

function listRow(at) {
  const query = chosen[at];
  const prompt = queries.prompt[query];
  const value = state.column < 0 ? score(data.influence[query]) : groupFormat(groupValues[query][state.column]);
  const foot = make("div", "row-foot", foreign("span", "id", queries.id[query]), make("span", "number", value));
  const row = make("div", "row");
  row.append(
    foreign("div", "row-prompt", prompt ?? queries.response[query]),
    foreign("div", "row-response", prompt === null ? "" : queries.response[query]),
    foot,
  );
  return row;
}

function setFilters(changes) {
  Object.assign(state, changes);
  if (changes.column !== undefined) {
    if (changes.column >= 0) state.sort = "column";
    else if (state.sort === "column") state.sort = "file";
  }
  chosen = chosenQueries(state);
  byId("list").scrollTop = 0;
  drawList();
  drawMain();
}

function drawList() {
  list.reset(chosen.length, chosen.indexOf(state.query));
  const measure = measured ? "influence" : "share";
  byId("measure").textContent = state.column < 0 ? "influence" : `${measure} of ${columns[state.column]}`;
  byId("count").textContent =
    chosen.length === everyQuery.length
      ? count(chosen.length, "query", "queries")
      : `${chosen.length.toLocaleString("en")} of ${count(everyQuery.length, "query", "queries")}`;
  const orders = Object.entries(ORDERS).filter(([name]) => name !== "column" || state.column >= 0);
  byId("sort").replaceChildren(
    ...orders.map(([name, order]) => {
      const column = measured ? "Influence of" : "Share of";
      const option = make("option", "", name === "column" ? `${column} ${columns[state.column]}` : order.name);
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
  if (state.row >= 0) chip("Show row", train.id[state.row], { row: -1 });
  byId("chips").replaceChildren(...chips);
}

function drawMain() {
  byId("panes").dataset.view = state.view;
  byId("panes").dataset.open = state.view === "queries" && state.query >= 0;
  byId("show-overview").setAttribute("aria-current", state.view === "overview");
  byId("show-queries").setAttribute("aria-current", state.view === "queries");
  if (state.view === "overview") {
    byId("detail").replaceChildren();
    updateOverview(state, chosen);
  } else if (state.query >= 0) {
    drawDetail(byId("detail"), state.query, { at: chosen.indexOf(state.query), of: chosen.length }, state, act);
  } else {
    byId("detail").replaceChildren(make("p", "empty", "Choose a query from the list."));
  }
}

// Where list and view do not fit side by side, a filter leads to the list that it filtered.
function showList() {
  if (!wide()) go("#queries");
}

function wide() {
  return matchMedia("(min-width: 861px)").matches;
}

function open(query) {
  if (query !== undefined) go(`#query=${encodeURIComponent(queries.id[query])}`);
}

// Steps from query to query replace each other in the history; a change of the view adds to it.
function go(hash) {
  if (hash === location.hash) return;
  const replace = hash.startsWith("#query=") && location.hash.startsWith("#query=");
  history[replace ? "replaceState" : "pushState"](null, "", hash);
  route();
}

function route() {
  const [name, id] = location.hash.slice(1).split("=");
  const query = name === "query" ? (positions.get(decode(id)) ?? -1) : -1;
  state.view = name === "query" || name === "queries" ? "queries" : "overview";
  state.query = query;
  list.select(chosen.indexOf(query), true);
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
  byId("show-queries").addEventListener("click", () => {
    if (state.view === "queries") return;
    if (wide() && chosen.length) open(chosen[0]);
    else go("#queries");
  });
  let waiting = 0;
  byId("search").addEventListener("input", (event) => {
    clearTimeout(waiting);
    waiting = setTimeout(() => setFilters({ search: event.target.value }), 60);
  });
  byId("sort").addEventListener("change", (event) => setFilters({ sort: event.target.value }));
  document.addEventListener("keydown", (event) => {
    const typing = event.target.closest("input, select, textarea");
    if (event.key === "/" && !typing) {
      event.preventDefault();
      byId("search").focus();
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
