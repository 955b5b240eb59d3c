/* How the search ranks its results, and what it does with a typing error. Sphinx puts this file into language_data.js,
   which the search page loads after searchtools.js. */

/* Someone who types inject_lora, LoRALinear or a.b asks for the name; who types "rank" wants to read about ranks. */
const looksLikeCode = (query) => /[_.(]|[a-z][A-Z]/.test(query);

var Scorer = {
  score: ([docname, title, _anchor, descr, score]) => {
    if (docname.startsWith("notebooks/")) return score + 30;
    if (!docname.startsWith("api/")) return score + 15;
    const query = (new URLSearchParams(window.location.search).get("q") || "").trim();
    if (looksLikeCode(query) && title.split(".").slice(-1)[0] === query.split(".").slice(-1)[0]) return score + 60;
    return /^Python (attribute|property|data)/.test(descr || "") ? score - 40 : score - 10;
  },
  objNameMatch: 11,
  objPartialMatch: 6,
  objPrio: { 0: 0, 1: 0, 2: -5 },
  objPrioDefault: 0,
  title: 15,
  partialTitle: 7,
  term: 5,
  partialTerm: 2,
};

/* All words that are one slip away: a letter too many, too few or another one, or two neighbours exchanged. */
const oneSlipAway = (word) => {
  const found = new Set();
  const letters = "abcdefghijklmnopqrstuvwxyz";
  for (let i = 0; i <= word.length; i++) {
    const [head, tail] = [word.slice(0, i), word.slice(i)];
    if (tail) found.add(head + tail.slice(1));
    if (tail.length > 1) found.add(head + tail[1] + tail[0] + tail.slice(2));
    for (const letter of letters) {
      found.add(head + letter + tail);
      if (tail) found.add(head + letter + tail.slice(1));
    }
  }
  return [...found];
};

/* The index holds stems ("foundat"), so each candidate is stemmed before it is looked up. */
const corrected = (word, index) => {
  const stemmer = new Stemmer();
  const pages = (stem, terms) => (Object.hasOwn(terms, stem) ? [terms[stem]].flat().length : 0);
  const worth = (stem) => 1000 * pages(stem, index.titleterms) + pages(stem, index.terms);
  const lower = word.toLowerCase();
  const known = [...Object.keys(index.terms), ...Object.keys(index.titleterms)];
  const names = Object.values(index.objects).flat().map((entry) => String(entry[4]).toLowerCase());
  const stem = stemmer.stemWord(lower);
  if (lower.length < 4 || /[^a-z]/.test(lower) || stopwords.includes(lower)) return word;
  if (known.some((term) => term.includes(stem)) || names.some((name) => name.includes(lower))) return word;
  let best = [word, 0];
  for (const candidate of oneSlipAway(lower)) {
    const value = worth(stemmer.stemWord(candidate));
    if (value > best[1]) best = [candidate, value];
  }
  return best[0];
};

/* Other pages load this file, too, without a search. */
if (typeof Search !== "undefined") {
  const asTyped = Search.query;
  Search.query = (query) => {
    const meant = query.split(/\s+/).map((word) => corrected(word, Search._index)).join(" ");
    if (meant !== query) {
      const note = document.createElement("p");
      note.className = "search-corrected";
      note.textContent = `No page has “${query}”. These pages have “${meant}”:`;
      Search.output.before(note);
    }
    asTyped(meant);
  };
}
