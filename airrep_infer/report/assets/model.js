// The data of the page, and what follows from it.

const SHORT_CHARS = 300; // more than a line can show
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

const rowPositions = new Map(train.id.map((id, row) => [id, row]));

// Names without the beginning that all of them share (up to a separator), so that what differs can be read.
function shortNames(names) {
  const [first, last] = [[...names].sort()[0] ?? "", [...names].sort().at(-1) ?? ""];
  let shared = 0;
  while (shared < first.length && first[shared] === last[shared]) shared++;
  const start = Math.max(...["/", ":", "_", "-", ".", " "].map((mark) => first.lastIndexOf(mark, shared - 1))) + 1;
  return start < 8 || first === last ? names : names.map((name) => `\u2026${name.slice(start)}`);
}

const shortColumns = shortNames(columns);
const shortQueryGroups = shortNames(queryGroups);
const shortTrainGroups = shortNames(data.trainGroups);

// A training row's fields in a line, without the one that names its group; null where it has none.
function fieldLine(row) {
  const others = Object.entries(train.fields).filter(([name, values]) => name !== data.by && values[row] !== null);
  const text = others.map(([name, values]) => `${name}: ${values[row].slice(0, SHORT_CHARS)}`).join(", ");
  return text ? foreign("span", "field-line", text) : null;
}

// The tag of a row's group; null where rows have none.
function groupTag(side, row) {
  const [names, short] = side === train ? [data.trainGroups, shortTrainGroups] : [data.queryGroups, shortQueryGroups];
  if (!names.length) return null;
  const tag = foreign("span", "tag", short[side.group[row]]);
  tag.title = names[side.group[row]];
  return tag;
}

function proponentShares(query) {
  const shares = new Array(data.trainGroups.length).fill(0);
  const hits = data.proponents[query];
  if (shares.length) for (let at = 0; at < hits.length; at += 2) shares[train.group[hits[at]]] += 2 / hits.length;
  return shares;
}

// A column of the matrix as a group of training rows, or -1: groups from a file need not be a field.
const rowGroupOfColumn = columns.map((name) => data.trainGroups.indexOf(name));

// [{row, score, rank, evidence, numbers: [[name, value]]}] of one end of a query.
function hits(end, query) {
  const flat = data[end][query];
  return Array.from({ length: flat.length / 2 }, (_, place) => ({
    row: flat[2 * place],
    score: flat[2 * place + 1],
    rank: place + 1,
    evidence: data.evidence[`${query} ${end} ${place}`],
    numbers: Object.entries(data.numbers)
      .map(([name, ends]) => [name, ends[end][query][place]])
      .filter(([, value]) => value !== null),
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
  [queries.id[query], queries.earlier[query] ?? "", queries.prompt[query] ?? "", queries.response[query]]
    .join("\n")
    .toLowerCase(),
);

const wordsOf = (search) => search.toLowerCase().split(/\s+/).filter(Boolean);

// What the list can be sorted by: the value that it then shows, and whether the highest comes first.
const ORDERS = {
  file: { name: "File order", value: null },
  high: { name: "Highest influence", value: (query) => data.influence[query], first: "highest" },
  low: { name: "Lowest influence", value: (query) => data.influence[query], first: "lowest" },
  proponent: { name: "Strongest proponent", value: (query) => data.proponents[query][1], first: "highest" },
  opponent: { name: "Lowest score", value: (query) => data.opponents[query][1], first: "lowest" },
  column: {
    name: "Influence of a group",
    value: (query, { column }) => groupValues[query][column],
    first: "highest",
  },
};

// The value of a query that the list shows: what it is sorted by, or its influence.
function shownValue(query, state) {
  return (ORDERS[state.sort].value ?? ORDERS.high.value)(query, state);
}

// The queries that pass the filters, in order. `byGroup`: whether the filter of the groups counts.
function chosenQueries(state, byGroup = true) {
  const words = wordsOf(state.search);
  const passing = everyQuery.filter(
    (query) =>
      (!byGroup || state.queryGroup < 0 || queryGroupOf(query) === state.queryGroup) &&
      (state.showing < 0 || shownBy[state.showing].queries.has(query)) &&
      words.every((word) => haystacks[query].includes(word)),
  );
  return sorted(passing, ORDERS[state.sort], (query) => ORDERS[state.sort].value(query, state));
}

// Those without a value come last, and equal ones in the order of the file.
function sorted(numbers, { value, first }, valueOf) {
  if (!value) return numbers;
  const sign = first === "highest" ? -1 : 1;
  const keys = new Map(numbers.map((number) => [number, sign * (valueOf(number) ?? sign * -Infinity)]));
  return numbers.sort((a, b) => (keys.get(a) === keys.get(b) ? a - b : keys.get(a) - keys.get(b)));
}

// Query groups against columns: the mean over those of a group's queries that are chosen, NaN where none is.
function groupMeans(chosen) {
  const sums = queryGroups.map(() => new Array(columns.length).fill(0));
  const sizes = queryGroups.map(() => 0);
  for (const query of chosen) {
    const group = queryGroupOf(query);
    sizes[group]++;
    groupValues[query].forEach((value, column) => (sums[group][column] += value));
  }
  return { means: sums.map((line, group) => line.map((sum) => sum / (sizes[group] || NaN))), sizes };
}
