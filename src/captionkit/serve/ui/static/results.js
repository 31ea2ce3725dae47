// Words show where the model looked: while the pointer is on them, while they have the focus, or, clicked, until the next.
const word = (event) => event.target.closest?.(".ck-word");

function show(button) {
  const card = button.closest(".ck-card");
  for (const other of card.querySelectorAll(".ck-shown")) other.classList.remove("ck-shown");
  button.classList.add("ck-shown");
  card.querySelector(".ck-veil img").src = button.dataset.veil;
  card.classList.add("ck-looking");
  card.querySelector(".ck-looked").textContent = button.dataset.looked;
}

function rest(card) {
  const pinned = card.querySelector(".ck-word[aria-pressed='true']");
  const focused = card.contains(document.activeElement) && document.activeElement.closest(".ck-word");
  if (pinned || focused) return show(pinned || focused);
  for (const shown of card.querySelectorAll(".ck-shown")) shown.classList.remove("ck-shown");
  card.classList.remove("ck-looking");
  const line = card.querySelector(".ck-looked");
  line.textContent = line.dataset.hint;
}

function pin(button) {
  const pressed = button.getAttribute("aria-pressed") !== "true";
  const card = button.closest(".ck-card");
  for (const other of card.querySelectorAll(".ck-word")) other.setAttribute("aria-pressed", "false");
  button.setAttribute("aria-pressed", String(pressed));
  if (pressed) show(button);
  else { button.blur(); rest(card); }
}

// Each caption is one stop of the tab key; arrows go from word to word in it.
function move(button, step) {
  const words = [...button.parentElement.querySelectorAll(".ck-word")];
  const last = words.length - 1;
  const here = words.indexOf(button);
  const next = words[{ first: 0, last, before: Math.max(0, here - 1), after: Math.min(last, here + 1) }[step]];
  for (const other of words) other.tabIndex = other === next ? 0 : -1;
  next.focus();
}

const rightToLeft = (node) => getComputedStyle(node).direction === "rtl";
element.addEventListener("pointerover", (event) => { if (word(event) && event.pointerType === "mouse") show(word(event)); });
element.addEventListener("pointerout", (event) => {
  if (word(event) && event.pointerType === "mouse") rest(word(event).closest(".ck-card"));
});
element.addEventListener("focusin", (event) => { if (word(event)) show(word(event)); });
element.addEventListener("focusout", (event) => {
  const card = word(event)?.closest(".ck-card");
  if (card) setTimeout(() => { if (card.isConnected) rest(card); });
});
element.addEventListener("keydown", (event) => {
  const button = word(event);
  if (!button) return;
  const [left, right] = rightToLeft(button) ? ["after", "before"] : ["before", "after"];
  const step = { ArrowLeft: left, ArrowRight: right, Home: "first", End: "last" }[event.key];
  if (step) { event.preventDefault(); move(button, step); }
  if (event.key === "Escape") { button.setAttribute("aria-pressed", "true"); pin(button); }
});

element.addEventListener("click", async (event) => {
  if (word(event)) pin(word(event));
  const copy = event.target.closest(".ck-copy");
  if (copy) answer(copy, (await copied(copy.dataset.text)) ? "Copied" : "Not copied: select the text instead");
  if (event.target.closest(".ck-download")) download();
});

async function copied(text) {
  try {
    await navigator.clipboard.writeText(text); // browsers have it on this machine or over HTTPS only
    return true;
  } catch {
    const field = document.body.appendChild(document.createElement("textarea"));
    field.value = text;
    field.select();
    const done = document.execCommand("copy");
    field.remove();
    return done;
  }
}

function answer(button, text) {
  const before = button.dataset.before ?? button.textContent;
  button.dataset.before = before;
  button.textContent = text;
  button.setAttribute("aria-live", "polite");
  setTimeout(() => { button.textContent = before; }, 2000);
}

function download() {
  const records = [...element.querySelectorAll("[data-record]")].map((card) => JSON.parse(card.dataset.record));
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([JSON.stringify(records, null, 1)], { type: "application/json" }));
  link.download = "captions.json";
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60000);
}

// On a narrow screen the captions lie below the fold.
watch("value", () => {
  const first = element.querySelector(".ck-card");
  if (!first || element.querySelectorAll(".ck-card").length > 4) return;
  const calm = matchMedia("(prefers-reduced-motion: reduce)").matches;
  if (first.getBoundingClientRect().top > innerHeight * 0.6)
    element.scrollIntoView({ behavior: calm ? "auto" : "smooth" });
});
