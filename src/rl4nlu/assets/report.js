"use strict";
// Sort a table by the column whose head was pressed; rows of means stay below.
for (const button of document.querySelectorAll("table.sortable th button")) {
  button.addEventListener("click", () => {
    const head = button.parentElement, table = head.closest("table"), at = [...head.parentElement.children].indexOf(head);
    const down = head.getAttribute("aria-sort") === "descending";
    for (const other of head.parentElement.children) other.removeAttribute("aria-sort");
    head.setAttribute("aria-sort", down ? "ascending" : "descending");
    const body = table.tBodies[0], rows = [...body.rows].filter((row) => !row.classList.contains("mean"));
    const key = (row) => row.cells[at].dataset.key ?? row.cells[at].textContent.trim();
    const numeric = rows.every((row) => key(row) === "" || Number.isFinite(Number(key(row))));
    const order = (a, b) => numeric ? Number(key(a)) - Number(key(b)) : key(a).localeCompare(key(b));
    rows.sort((a, b) => (down ? order(a, b) : order(b, a)));
    const means = [...body.rows].filter((row) => row.classList.contains("mean"));
    body.append(...rows, ...means);
  });
}
// Show the examples that all filters let through, in the order that is asked for.
const filters = document.querySelector(".filters");
if (filters) {
  const cards = [...document.querySelectorAll("article")], count = filters.querySelector("output");
  const value = (name) => filters.querySelector(`[name=${name}]`).value;
  const answer = (card, head) => [...card.querySelectorAll("tr[data-head]")].find((row) => row.dataset.head === head);
  const fits = (card, head, want) => {
    const row = answer(card, head);
    return want === "" || (row !== undefined && row.dataset.right === want);
  };
  const update = () => {
    const words = value("words").trim().toLowerCase();
    let shown = 0;
    for (const card of cards) {
      const visible = (value("task") === "" || card.dataset.task === value("task"))
        && fits(card, value("first"), value("first-is")) && fits(card, value("second"), value("second-is"))
        && (words === "" || card.textContent.toLowerCase().includes(words));
      card.hidden = !visible;
      shown += visible;
    }
    count.textContent = `${shown} of ${cards.length} shown`;
    const key = { order: (card) => Number(card.dataset.order), sure: (card) => -Number(card.dataset.sure),
      wrong: (card) => -Number(card.dataset.wrong) }[value("sort")];
    const sorted = [...cards].sort((a, b) => key(a) - key(b));
    document.querySelector(".cards").append(...sorted);
  };
  filters.addEventListener("input", update);
  update();
}
addEventListener("beforeprint", () => document.querySelectorAll("details").forEach((one) => { one.open = true; }));
