// What some queries say of every training row.

// Arrays by training row. `queries`: how many of `chosen` show it; `below`: for how many its score is below 0;
// `mean` and `strongest` (the score furthest from 0) over those that show it.
// `strength`: as `airrep-train verify --rows` merges the proponents of several queries: how far a score is above
// the lowest proponent of its query, as a share of the way to the highest, summed over the queries; the first
// proponent of 3 queries has 3. `against`: the same of the scores below 0, downwards.
function rowFigures(chosen) {
  const size = train.id.length;
  const [counts, below, lastQuery] = [new Int32Array(size), new Int32Array(size), new Int32Array(size).fill(-1)];
  const [sums, strongest] = [new Float64Array(size), new Float64Array(size)];
  const [strength, against] = [new Float64Array(size), new Float64Array(size)];
  for (const query of chosen) {
    const [high, low] = [data.proponents[query], data.opponents[query]];
    addShares(strength, high, 1);
    addShares(against, low, -1);
    for (const flat of [high, low]) {
      for (let at = 0; at < flat.length; at += 2) {
        const [row, value] = [flat[at], flat[at + 1]];
        if (lastQuery[row] === query) continue; // few rows in all: it is at both ends
        lastQuery[row] = query;
        counts[row]++;
        sums[row] += value;
        if (value < 0) below[row]++;
        if (Math.abs(value) > Math.abs(strongest[row])) strongest[row] = value;
      }
    }
  }
  return { queries: counts, below, mean: sums.map((sum, row) => sum / counts[row]), strongest, strength, against };
}

// Adds for every hit on one side of 0 the share of the way from the weakest hit to the first.
function addShares(shares, flat, sign) {
  const first = sign * flat[1];
  if (!(first > 0)) return;
  const weakest = Math.max(0, sign * flat.at(-1));
  for (let at = 0; at < flat.length; at += 2) {
    const size = sign * flat[at + 1];
    if (size > 0) shares[flat[at]] += first === weakest ? 1 : (size - weakest) / (first - weakest);
  }
}

const strengthText = (value) => value.toFixed(value >= 100 ? 0 : value >= 10 ? 1 : 2);

// What rows can be sorted by; `figure` names the figure, whose values the columns show.
const ROW_ORDERS = {
  strength: { name: "Strength", figure: "strength", first: "highest", format: strengthText },
  queries: { name: "Most queries", figure: "queries", first: "highest", format: String },
  high: { name: "Highest mean", figure: "mean", first: "highest", format: score },
  low: { name: "Lowest mean", figure: "mean", first: "lowest", format: score },
  strongest: { name: "Strongest score", figure: "strongest", first: "furthest", format: score },
  against: { name: "Strength below 0", figure: "against", first: "highest", format: strengthText },
  file: { name: "File order", figure: null },
};

const rowHaystacks = new Array(train.id.length);

function rowHaystack(row) {
  rowHaystacks[row] ??= [train.id[row], train.earlier[row] ?? "", train.prompt[row] ?? "", train.response[row]]
    .concat(Object.values(train.fields).map((values) => values[row] ?? ""))
    .join("\n")
    .toLowerCase();
  return rowHaystacks[row];
}

// The rows that some query of `figures` shows and that pass the search and the filters, in order.
// `selected`: a set, or null where it does not matter.
function chosenRows(figures, { rowSearch, rowSort, column }, selected) {
  const words = wordsOf(rowSearch);
  const group = column < 0 ? -1 : rowGroupOfColumn[column];
  const rows = [];
  for (let row = 0; row < train.id.length; row++) {
    if (selected && !selected.has(row)) continue;
    if (!figures.queries[row] || (group >= 0 && train.group[row] !== group)) continue;
    if (words.every((word) => rowHaystack(row).includes(word))) rows.push(row);
  }
  const { figure, first } = ROW_ORDERS[rowSort];
  if (figure === null) return rows;
  const values = figures[figure];
  if (first === "furthest") return rows.sort((a, b) => Math.abs(values[b]) - Math.abs(values[a]) || a - b);
  return rows.sort(first === "highest" ? (a, b) => values[b] - values[a] || a - b : (a, b) => values[a] - values[b] || a - b);
}
