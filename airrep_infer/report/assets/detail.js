// One query: its text, the influence of the groups, its proponents and opponents.

const PER_PAGE = 25;

// Draws query number `query`; `place` says where it stands in the list.
function drawDetail(box, query, place, state, act) {
  const parts = [questionCard(query, place, act), verifiedLosses(query)].filter((part) => part !== null);
  const groups = columns.map((title, code) => ({ name: shortColumns[code], title, code, value: groupValues[query][code] }));
  const influence = make(
    "section",
    "card influence",
    make("h2", "", "Influence of all training rows"),
    make("p", "figure", score(data.influence[query]), estimate(query)),
    make("p", "note", "Relative to the average row: above 0 they help more than it does."),
    scorePlace(query),
  );
  if (groups.length) {
    const title = measured ? "Influence by group" : `Proponents by ${fieldName}`;
    const chart = barChart(groups, {
      format: groupFormat,
      pick: (code) => act.filterColumn(code),
      current: state.column,
    });
    parts.push(make("div", "pair", influence, card(title, "", chart)));
  } else parts.push(influence);

  const [high, low] = [hits("proponents", query), hits("opponents", query)];
  const scale = extent([...high, ...low].map((hit) => hit.score));
  const raised = high.some((hit) => hit.score > 0)
    ? "The highest scores: predicted to make this response more likely."
    : "No row scores above 0: these are the highest scores there are.";
  const below = low.filter((hit) => hit.score < 0).length;
  const beyond = below < low.length ? ` (${below} of these ${low.length})` : "";
  const lowered = below
    ? `Scores below 0${beyond}: less help than the average row gives, or harm.`
    : "No row scores below 0, so none opposes this response: these help it least.";
  parts.push(
    make(
      "div",
      "pair hits",
      hitColumn("Proponents", raised, high, scale, state, act),
      hitColumn(below ? "Opponents" : "Lowest scores", lowered, low, scale, state, act),
    ),
    cutNote(),
  );
  box.replaceChildren(...parts);
  addMore(box);
}

// What the arms of the verdict made of this response; null where it was not measured.
function verifiedLosses(query) {
  const losses = data.verdict?.queries[queries.id[query]];
  if (!losses) return null;
  const answers = data.verdict.answers[queries.id[query]];
  const table = make("table", "arms losses");
  const titles = ["Fine-tuned on", "Loss of this response", ...(answers ? ["Answers now"] : [])];
  table.append(make("tr", "", ...titles.map((title) => make("th", "", title))));
  data.verdict.arms.forEach((arm, number) => {
    const line = make("tr", "", foreign("th", "", arm.name), make("td", "", losses[number].toFixed(3)));
    if (answers) line.append(foreign("td", "answer-now", answers[number]));
    table.append(line);
  });
  const note = answers ? "In nats. The answers are greedy, of the first seed." : "In nats.";
  return card("Verified on the language model", note, make("div", "heat-scroll", table));
}

function cutNote() {
  const cut = `Prompts and responses longer than ${count(data.chars, "character")} are cut.`;
  return make("p", "note foot", data.cut ? cut : "");
}

// Buttons to the neighbours in a list; `place` is {number, of}, the position from 0 (-1: not in it) and the length.
function steps(place, noun, step) {
  const turn = (label, name, by) => {
    const neighbour = button("icon", label, () => step(by));
    neighbour.setAttribute("aria-label", `${name} ${noun}`);
    neighbour.disabled = place.number < 0 || place.number + by < 0 || place.number + by >= place.of;
    return neighbour;
  };
  const [position, of] = [place.number + 1, place.of].map((number) => number.toLocaleString("en"));
  const where = make("span", "where", place.number < 0 ? "not in the list" : `${position} of ${of}`);
  return make("span", "steps", where, turn("\u2191", "Previous", -1), turn("\u2193", "Next", 1));
}

function questionCard(query, place, act) {
  const head = make(
    "div",
    "question-head",
    button("quiet back", "\u2039 All queries", () => act.back()),
    foreign("span", "id", queries.id[query]),
    groupTag(queries, query),
    steps(place, "query", (by) => act.step(by)),
  );
  return make("section", "card question", head, rowText(queries, query));
}

// A row's prompt and response, or the whole of a plain text: some lines of each, without the blank ones. Of a
// conversation the last turn comes first, and what was said before it last.
function rowText(side, row) {
  const box = make("div", "text");
  const prompt = side.prompt[row];
  if (prompt !== null) box.append(foreign("p", "prompt", condensed(prompt)));
  box.append(foreign("p", prompt === null ? "response plain" : "response", condensed(side.response[row])));
  box.whole = prompt === null ? [side.response[row]] : [prompt, side.response[row]];
  if (side.earlier[row] !== null) {
    const earlier = foreign("p", "earlier", condensed(side.earlier[row]));
    earlier.dataset.label = "Earlier turns";
    box.append(earlier);
    box.whole.push(side.earlier[row]);
  }
  return box;
}

function condensed(text) {
  return text.trim().replace(/\s*\n\s*/g, "\n");
}

// A button under every text inside `box` that does not fit; it shows all of it as it is.
function addMore(box) {
  // All sizes are read before the first button goes in: the page is laid out once.
  const cut = [...box.querySelectorAll(".text")].filter((text) =>
    [...text.children].some((part) => part.scrollHeight > part.clientHeight + 2),
  );
  for (const text of cut) {
    const more = button("quiet more", "Show more", () => {
      const open = text.classList.toggle("open");
      [...text.children].forEach((part, number) => {
        part.textContent = open ? text.whole[number] : condensed(text.whole[number]);
      });
      more.textContent = open ? "Show less" : "Show more";
      more.setAttribute("aria-expanded", open);
    });
    more.setAttribute("aria-expanded", false);
    text.after(more);
  }
}

// Attributions through an index estimate the influence and say how far they may be off.
function estimate(query) {
  const error = data.errors[query];
  return error === null ? null : make("span", "error", ` \u00b1 ${score(error).replace("+", "")}`);
}

function scorePlace(query) {
  const all = (chosen) => [...scores("proponents", chosen), ...scores("opponents", chosen)];
  const chart = histogram([{ name: "", values: all(everyQuery) }], { marks: all([query]) });
  const note = "Its proponents and opponents (marks) among those of all queries.";
  return make("div", "grow", chart, make("p", "note", note));
}

function hitColumn(title, note, all, scale, state, act) {
  const group = state.column < 0 ? -1 : rowGroupOfColumn[state.column];
  const kept = group < 0 ? all : all.filter((hit) => train.group[hit.row] === group);
  const head = make("div", "hits-head", make("h2", "", title), make("p", "note", note));
  if (title === "Proponents") {
    const jump = () => document.querySelector(".hit-column:last-child").scrollIntoView();
    head.append(button("quiet jump", "Lowest scores \u2193", jump));
  }
  if (group >= 0) {
    const only = make("p", "note only", `${kept.length} of ${all.length}, from `);
    const every = button("quiet", "Show all", () => act.filterColumn(-1));
    only.append(foreign("b", "", data.trainGroups[group]), " \u00b7 ", every);
    head.append(only);
  }
  const list = make("ol", "hit-list");
  const column = make("section", "hit-column", head, list);
  inPages(column, list, kept, (hit) => hitItem(hit, scale, act));
  return column;
}

// Fills `list`, which is in `column`, some items at a time, with a button for more.
function inPages(column, list, items, makeItem) {
  const add = (from) => {
    const added = items.slice(from, from + PER_PAGE).map(makeItem);
    list.append(...added);
    const left = items.length - from - added.length;
    if (left > 0) {
      const more = button("quiet", `Show ${Math.min(left, PER_PAGE)} more`, () => {
        more.remove();
        add(from + PER_PAGE);
      });
      column.append(more);
    }
    if (list.isConnected) added.forEach(addMore);
  };
  add(0);
}

// What is known of a hit besides its score, one text each; the three numbers of predicted nats are one.
function numberTexts(numbers) {
  const texts = [...numbers].filter(([name]) => !name.includes("nats")).map((number) => number.join(" "));
  if (numbers.has("predicted_nats")) {
    const [nats, low, high] = ["predicted_nats", "nats_low", "nats_high"].map((name) => score(numbers.get(name)));
    texts.push(`${nats} nats [${low}, ${high}] against a random row`);
  }
  return texts;
}

function hitItem(hit, scale, act) {
  const others = shownBy[hit.row].queries.size;
  const foot = make("div", "hit-foot", foreign("span", "id", train.id[hit.row]), groupTag(train, hit.row));
  for (const text of numberTexts(new Map(hit.numbers))) foot.append(make("span", "note", text));
  const link = button("quiet", `in ${count(others, "query", "queries")}`, () => act.openRow(hit.row));
  link.title = "Show this row, and the queries that show it";
  foot.append(link);
  return make(
    "li",
    "hit",
    make("span", "rank", String(hit.rank)),
    make(
      "div",
      "hit-body",
      make("div", "hit-score", signedBar(hit.score, scale), make("span", "number", score(hit.score))),
      rowText(train, hit.row),
      hit.evidence ? evidenceBox(hit.evidence) : null,
      foot,
    ),
  );
}

// What in the row speaks for its score: the words that it shares with the response, and its sentences.
function evidenceBox({ sentences, spans }) {
  const box = make("details", "evidence", make("summary", "", "Evidence"));
  if (spans.length) {
    box.append(make("p", "note", "Words that it shares with the response:"));
    box.append(make("ul", "", ...spans.map((span) => foreign("li", "span", span))));
  }
  if (sentences.length) {
    box.append(make("p", "note", "Its sentences, and by how much the score falls without each:"));
    const scale = extent(sentences.map(([, change]) => change));
    box.append(
      ...sentences.map(([text, change]) =>
        make(
          "div",
          "sentence",
          make("div", "hit-score", signedBar(change, scale), make("span", "number", score(change))),
          foreign("p", "", text),
        ),
      ),
    );
  }
  return box;
}
