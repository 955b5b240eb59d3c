/* What is wider than the screen scrolls in its own box. This script says so, and makes the box reachable by keyboard. */
(() => {
  const boxes = [
    ".bd-article pre",
    ".bd-article mjx-container[display='true']",
    ".bd-article .pst-scrollable-table-container",
    ".bd-article div.cell_output .output.text_html",
    ".bd-article figure",
  ].join(", ");

  const tables = ".bd-article .pst-scrollable-table-container";
  const phone = window.matchMedia("(max-width: 576px)"); // as in book.css

  // On a phone a table of prose is shown row by row, each cell with the heading of its column, if the table is too wide
  // or if its columns are so narrow that the rows take more room than their cells do one below the other.
  const label = (table) => {
    const headings = [...table.tHead.rows[0].cells].map((cell) => cell.textContent.trim());
    for (const row of table.tBodies[0].rows) {
      [...row.cells].forEach((cell, place) => {
        if (place && headings[place]) cell.dataset.label = headings[place];
        cell.classList.toggle("blank", !cell.textContent.trim());
      });
    }
  };
  const stack = () => {
    for (const box of document.querySelectorAll(tables)) {
      const table = box.querySelector("table");
      if (!table?.tHead) continue;
      table.classList.remove("stacked"); // to measure it as it was written
      if (!phone.matches || !table.offsetHeight) continue; // not to be measured inside a fold
      const wide = box.scrollWidth > box.clientWidth + 1;
      const height = table.offsetHeight;
      label(table);
      table.classList.add("stacked");
      if (!wide && table.offsetHeight >= height) table.classList.remove("stacked");
    }
  };

  const mark = () => {
    stack();
    for (const box of document.querySelectorAll(boxes)) {
      const wide = box.scrollWidth > box.clientWidth + 1;
      if (wide === box.hasAttribute("data-scrolls")) continue;
      box.toggleAttribute("data-scrolls", wide);
      if (wide) {
        box.tabIndex = 0;
        if (!box.matches("mjx-container")) box.setAttribute("role", "region");
        box.setAttribute("aria-label", box.getAttribute("aria-label") || "Wide content, scrolls sideways");
        const hint = document.createElement("span");
        hint.className = "scroll-hint";
        hint.setAttribute("aria-hidden", "true");
        hint.textContent = "scroll →";
        box.after(hint);
      } else {
        box.removeAttribute("tabindex");
        if (box.nextElementSibling?.matches(".scroll-hint")) box.nextElementSibling.remove();
      }
    }
  };

  const start = () => {
    mark();
    new ResizeObserver(mark).observe(document.body);
    window.MathJax?.startup?.promise?.then(mark);
    document.fonts?.ready.then(mark); // another font is wider or narrower
  };
  document.addEventListener("DOMContentLoaded", mark);
  window.addEventListener("load", start);
  document.addEventListener("toggle", mark, true); // a fold was opened
})();
