// The data of the page, and what follows from it.

const data = JSON.parse(document.getElementById("data").textContent);
const queries = data.queries;
const train = data.train;
const everyQuery = queries.id.map((_, query) => query);

// Attributions with groups have their influence; without, the share of the proponents stands in for it.
const measured = data.columns.length > 0;
const columns = measured ? data.columns : data.trainGroups;
const groupValues = measured ? data.groups : everyQuery.map(proponentShares);
const groupFormat = measured ? score : percent;
const queryGroups = data.queryGroups.length ? data.queryGroups : ["All queries"];
const queryGroupOf = (query) => (data.queryGroups.length ? queries.group[query] : 0);
const fieldName = data.by ?? "group";

function proponentShares(query) {
  const shares = new Array(data.trainGroups.length).fill(0);
  const hits = data.proponents[query];
  if (shares.length) for (let at = 0; at < hits.length; at += 2) shares[train.group[hits[at]]] += 2 / hits.length;
  return shares;
}

// A column of the matrix as a group of training rows, or -1: groups from a file need not be a field.
const rowGroupOfColumn = columns.map((name) => data.trainGroups.indexOf(name));

// [{row, score, rank}] of one end of a query.
function hits(end, query) {
  const flat = data[end][query];
  return Array.from({ length: flat.length / 2 }, (_, at) => ({
    row: flat[2 * at],
    score: flat[2 * at + 1],
    rank: at + 1,
  }));
}

const everyScore = new Map();

function scores(end, chosen) {
  if (chosen.length < everyQuery.length) return collectScores(end, chosen);
  if (!everyScore.has(end)) everyScore.set(end, collectScores(end, everyQuery));
  return everyScore.get(end);
}

function collectScores(end, chosen) {
  const values = [];
  for (const query of chosen) for (let at = 1; at < data[end][query].length; at += 2) values.push(data[end][query][at]);
  return values;
}

// For every training row the queries that show it, at either end.
const shownBy = train.id.map(() => ({ proponents: [], opponents: [], queries: new Set() }));
for (const end of ["proponents", "opponents"]) {
  data[end].forEach((flat, query) => {
    for (let at = 0; at < flat.length; at += 2) {
      shownBy[flat[at]][end].push(query);
      shownBy[flat[at]].queries.add(query);
    }
  });
}

const haystacks = everyQuery.map((query) =>
  [queries.id[query], queries.prompt[query] ?? "", queries.response[query]].join("\n").toLowerCase(),
);

// What the list can be sorted by; each key is higher for what comes first.
const ORDERS = {
  file: { name: "File order", key: null },
  high: { name: "Highest influence", key: (query) => data.influence[query] },
  low: { name: "Lowest influence", key: (query) => -data.influence[query] },
  proponent: { name: "Strongest proponent", key: (query) => data.proponents[query][1] ?? -Infinity },
  opponent: { name: "Strongest opponent", key: (query) => -(data.opponents[query][1] ?? Infinity) },
  column: { name: "Influence of a group", key: (query, { column }) => groupValues[query][column] },
};

// The queries that pass the filters, in order.
function chosenQueries(state) {
  const words = state.search.toLowerCase().split(/\s+/).filter(Boolean);
  const chosen = everyQuery.filter(
    (query) =>
      (state.queryGroup < 0 || queryGroupOf(query) === state.queryGroup) &&
      (state.row < 0 || shownBy[state.row].queries.has(query)) &&
      words.every((word) => haystacks[query].includes(word)),
  );
  const { key } = ORDERS[state.sort];
  if (!key) return chosen;
  const keys = new Map(chosen.map((query) => [query, key(query, state)]));
  return chosen.sort((a, b) => keys.get(b) - keys.get(a) || a - b);
}

// Query groups against columns: the mean over a group's queries, NaN where it has none.
function groupMeans() {
  const sums = queryGroups.map(() => new Array(columns.length).fill(0));
  const sizes = queryGroups.map(() => 0);
  for (const query of everyQuery) {
    const group = queryGroupOf(query);
    sizes[group]++;
    groupValues[query].forEach((value, column) => (sums[group][column] += value));
  }
  return { means: sums.map((line, group) => line.map((sum) => sum / (sizes[group] || NaN))), sizes };
}
