// One training row: its whole text, its fields, its figures, and the queries that have it at either end.

// Draws row number `row`; `place` says where it stands in the list of rows.
function drawRow(box, row, { chosen, figures, place, selected, act }) {
  const filtered = chosen.length < everyQuery.length;
  const parts = [rowCard(row, place, selected, act), rowFacts(row, chosen, figures)];
  const inside = new Set(chosen);
  const ends = ["proponents", "opponents"].map((end) =>
    shownBy[row][end]
      .filter((query) => inside.has(query))
      .map((query) => ({ query, ...hits(end, query).find((hit) => hit.row === row) })),
  );
  const scale = extent(ends.flat().map((hit) => hit.score));
  const below = ends[1].filter((hit) => hit.score < 0).length;
  const of = filtered ? " (of the filtered queries)" : "";
  const [high, low] = [
    ends[0].sort((a, b) => b.score - a.score || a.query - b.query),
    ends[1].sort((a, b) => a.score - b.score || a.query - b.query),
  ];
  const lowNote = below
    ? `Below 0 for ${below} of them: less help than the average row gives, or harm.`
    : "Below 0 for none of them, so it opposes none.";
  parts.push(
    make(
      "div",
      "pair hits",
      queryColumn(`Proponent of ${count(high.length, "query", "queries")}${of}`, "", high, scale, act),
      queryColumn(
        `${below || !low.length ? "Opponent of" : "Among the lowest of"} ${count(low.length, "query", "queries")}${of}`,
        low.length ? lowNote : "",
        low,
        scale,
        act,
      ),
    ),
    cutNote(),
  );
  box.replaceChildren(...parts);
  addMore(box);
}

function rowCard(row, place, selected, act) {
  const choose = button("quiet", selected ? "Selected" : "Select", () => act.toggleRow(row));
  choose.setAttribute("aria-pressed", selected);
  const shown = shownBy[row].queries.size;
  const head = make(
    "div",
    "question-head",
    button("quiet back", "\u2039 All rows", () => act.showRows()),
    foreign("span", "id", train.id[row]),
    groupTag(train, row),
    choose,
    button("quiet filter", `List its ${count(shown, "query", "queries")}`, () => act.filterRow(row)),
    steps(place, "row", (by) => act.stepRow(by)),
  );
  const text = rowText(train, row);
  text.classList.add("open");
  [...text.children].forEach((part, number) => (part.textContent = text.whole[number]));
  return make("section", "card question", head, text);
}

function rowFacts(row, chosen, figures) {
  const list = make("dl", "facts");
  const add = (name, value) => list.append(make("div", "", foreign("dt", "", name), foreign("dd", "", value)));
  const queryTotal = chosen.length.toLocaleString("en");
  add("Queries that show it", `${figures.queries[row].toLocaleString("en")} of ${queryTotal}`);
  if (figures.queries[row]) {
    add("Mean score", score(figures.mean[row]));
    add("Strongest score", score(figures.strongest[row]));
    add("Strength", strengthText(figures.strength[row]));
  }
  for (const [name, values] of Object.entries(train.fields)) if (values[row] !== null) add(name, values[row]);
  return list;
}

function queryColumn(title, note, found, scale, act) {
  const head = make("div", "hits-head", make("h2", "", title), note ? make("p", "note", note) : null);
  const list = make("ol", "hit-list");
  const column = make("section", "hit-column", head, list);
  inPages(column, list, found, (hit) => {
    const open = button("quiet", "Open", () => act.openQuery(hit.query));
    const foot = make("div", "hit-foot", foreign("span", "id", queries.id[hit.query]), groupTag(queries, hit.query), open);
    const bar = make("div", "hit-score", signedBar(hit.score, scale), make("span", "number", score(hit.score)));
    const rank = make("span", "rank", String(hit.rank));
    rank.title = "Its rank for this query";
    return make("li", "hit", rank, make("div", "hit-body", bar, rowText(queries, hit.query), foot));
  });
  return column;
}
