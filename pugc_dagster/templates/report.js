// The report's tables. Texts of users reach the page by textContent only.
"use strict";
const {pairs, dropped, total} = JSON.parse(document.getElementById("data").textContent);
const node = (tag, text, name) => {
  const found = document.createElement(tag);
  if (text !== undefined && text !== null) found.textContent = text;
  if (name) found.className = name;
  return found;
};
const EXCERPT = 400;
const excerpt = (cell) => {
  const text = cell.getValue() ?? "";
  return node("div", text.length > EXCERPT ? text.slice(0, EXCERPT) + "…" : text, "excerpt");
};
const number = (cell) => node("span", cell.getValue() === null ? "" : cell.getValue().toFixed(2));

// A header filter of what occurs in a column.
const choice = (rows, field) => (cell, rendered, success) => {
  const select = node("select");
  select.setAttribute("aria-label", field);
  select.append(node("option", ""));
  for (const value of [...new Set(rows.map((row) => row[field] ?? ""))].sort()) if (value) select.append(node("option", value));
  select.addEventListener("change", () => success(select.value));
  return select;
};
const chosen = (rows, field, title, width = 110) => ({
  title, field, width, formatter: (cell) => node("span", cell.getValue()),
  headerFilter: choice(rows, field), headerFilterFunc: (wanted, value) => wanted === (value ?? ""),
});
const text = (field, title) => ({title, field, formatter: excerpt, headerFilter: "input", widthGrow: 3, minWidth: 160});

const listing = (id, rows, columns, open) => {
  const table = new Tabulator(`#${id}`, {
    data: rows, columns, layout: "fitColumns", pagination: true, paginationSize: 20, paginationSizeSelector: [20, 100, 500],
    columnDefaults: {headerHozAlign: "left", vertAlign: "top"}, placeholder: "none",
  });
  table.on("rowClick", (event, row) => { if (!event.target.closest("a")) open(row.getData()); });
  table.on("dataFiltered", (filters, found) => {
    document.getElementById(`${id}-found`).textContent = `${found.length} of ${rows.length} listed`;
  });
  document.getElementById(`${id}-search`).addEventListener("input", (event) => {
    const words = event.target.value.toLowerCase().split(/\s+/).filter(Boolean);
    const whole = (row) => Object.values(row).join("\n").toLowerCase();
    table.setFilter((row) => words.every((word) => whole(row).includes(word)));
  });
  return table;
};

// One row in full, in a dialog.
const dialog = document.getElementById("whole");
const show = (...parts) => {
  dialog.querySelector(".body").replaceChildren(...parts);
  dialog.showModal();
  dialog.scrollTop = 0;
};
dialog.querySelector("button").addEventListener("click", () => dialog.close());
dialog.addEventListener("close", () => { if (location.hash.startsWith("#words-")) history.replaceState(null, "", " "); });

// The words that only this side has are marked.
const side = (words, mine, other, name) => {
  const box = node("div", null, `text ${name}`);
  for (const part of words) {
    if (part[other]) continue;
    box.append(part[mine] ? node(mine === "added" ? "ins" : "del", part.value) : document.createTextNode(part.value));
  }
  return box;
};
const compare = (pair) => {
  // Above this many milliseconds the texts stand side by side unmarked.
  const words = Diff.diffWordsWithSpace(pair.rejected, pair.chosen, {timeout: 2000}) ?? [
    {value: pair.rejected, removed: true}, {value: pair.chosen, added: true}];
  const about = ["license", "source", "author", "url"].filter((name) => pair[name]).map((name) => `${name} ${pair[name]}`);
  const sides = node("div", null, "sides");
  const labelled = (label, box) => { const whole = node("div"); whole.append(node("small", label), box); return whole; };
  sides.append(
    labelled(`chosen${pair.chosen_cut_off ? ", cut off" : ""}`, side(words, "added", "removed", "chosen")),
    labelled(`rejected${pair.rejected_cut_off ? ", cut off" : ""}`, side(words, "removed", "added", "rejected")));
  const parts = [node("h3", pair.question), node("p", [`margin ${pair.margin.toFixed(2)}`, `shard ${pair.shard}`, pair.split, ...about].join(", "))];
  parts.push(sides);
  if (pair.behind) {
    const link = node("a", "post, votes and prompts behind it");
    link.href = `#pair-${pair.id}`;
    link.addEventListener("click", () => dialog.close());
    const line = node("p");
    line.append(link);
    parts.push(line);
  }
  show(...parts);
};

if (pairs.length) {
  const link = (cell) => {
    const found = node("a", cell.getValue().slice(0, 8));
    found.href = `#words-${cell.getValue()}`;
    return found;
  };
  const licensed = pairs.some((pair) => pair.license);
  listing("pairs", pairs, [
    {title: "pair", field: "id", formatter: link, width: 100},
    text("question", "question"), text("chosen", "chosen"), text("rejected", "rejected"),
    {title: "margin", field: "margin", formatter: number, sorter: "number", hozAlign: "right", width: 100,
      headerFilter: "number", headerFilterPlaceholder: "at least", headerFilterFunc: ">="},
    chosen(pairs, "shard", "shard"), chosen(pairs, "split", "split", 80),
    ...(licensed ? [chosen(pairs, "license", "licence", 130)] : []),
  ], compare);
}
if (dropped.length) {
  listing("dropped", dropped, [
    chosen(dropped, "stage", "stage"), chosen(dropped, "reason", "reason", 150), chosen(dropped, "shard", "shard"),
    text("text", "text"), text("note", "more"), {title: "id", field: "id", width: 160, formatter: (cell) => node("code", cell.getValue())},
  ], (row) => show(node("h3", `${row.stage}: ${row.reason}`), node("p", `shard ${row.shard}, ${row.id}`),
    node("div", row.text, "text"), ...(row.note ? [node("div", row.note, "text")] : [])));
}

const open = () => {
  const target = location.hash && document.getElementById(decodeURIComponent(location.hash.slice(1)));
  if (target instanceof HTMLDetailsElement) { target.open = true; target.scrollIntoView(); }
  const pair = location.hash.startsWith("#words-") && pairs.find((found) => found.id === location.hash.slice(7));
  if (pair && !dialog.open) compare(pair);
};
addEventListener("hashchange", open);
open();
