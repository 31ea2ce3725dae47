// The page: photos that are dropped, pasted, chosen or taken go to /v1/captions one by one, and each gets a card.
const find = (selector, root = document) => root.querySelector(selector);
const all = (selector, root = document) => [...root.querySelectorAll(selector)];
const maxPhotos = Number(document.body.dataset.maxPhotos);
const maxBytes = Number(document.body.dataset.maxBytes);
const hasAttention = document.body.dataset.attention === "true";
const settings = find("#ck-settings form");
const results = find("#ck-results");
const hint = "Point at a word or tap it, or move to it with Tab and the arrow keys, to see where the model looked.";
const atOnce = 4; // requests under way; the service puts those that wait together through the model together
const retries = 5;

let given = []; // the photos of the last go, which "Caption again" captions anew
let running = null; // aborts the requests of the last go
const records = new Map(); // card -> what the service answered, for the download
const attentions = new WeakMap(); // button of a word -> its map, rows of cells

/** Return an element with a class, attributes and children; text is never read as HTML. */
function make(name, className = "", attributes = {}, ...children) {
  const element = document.createElement(name);
  if (className) element.className = className;
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  element.append(...children);
  return element;
}

const percent = (share) => `${Math.round(100 * Math.min(Math.max(share, 0), 1))}%`;
const counted = (number) => `${number} photo${number === 1 ? "" : "s"}`;
const tell = (text, hidden = "") => {
  find("#ck-status").replaceChildren(text, ...(hidden ? [make("span", "ck-hidden", {}, `. ${hidden}`)] : []));
};
const complain = (text) => { find(".ck-problem").textContent = text; };

// ---- requests

/** Return the options of the form as a query of /v1/captions. */
function query() {
  const { num_captions, num_beams, temperature, top_p, seed, min_confidence, style, way } = settings.elements;
  const options = { num_captions: num_captions.value, attention: hasAttention };
  if (way.value === "sample") Object.assign(options, { temperature: temperature.value, top_p: top_p.value, seed: seed.value });
  else options.num_beams = Math.max(num_beams.value, num_captions.value);
  if (Number(min_confidence.value)) options.min_confidence = min_confidence.value;
  if (style.value) options.style = style.value;
  return new URLSearchParams(options);
}

async function captionAll(files) {
  if (!settings.reportValidity()) return;
  complain("");
  if (!files.length) return tell("Choose a photo first.");
  running?.abort(); // whoever gives photos while others are on their way wants the new ones
  const mine = running = new AbortController();
  given = files.slice(0, maxPhotos);
  const [photos, options, isAlt] = [given, query(), settings.elements.style.value === "alt"];
  const slots = clear(photos.length);
  tell(`Captioning ${counted(photos.length)} …`);
  const waiting = [...photos.entries()];
  const answers = [];
  const work = async () => {
    for (let next = waiting.shift(); next; next = waiting.shift()) {
      const [number, file] = next;
      const answer = await caption(file, options, mine.signal);
      if (mine.signal.aborted) return;
      answers.push(answer);
      const card = answer.error ? errorCard(answer.error) : photoCard(file, answer, number, isAlt);
      slots[number].replaceWith(card);
      records.set(card, answer);
      reveal();
      if (answers.length < photos.length) tell(`${answers.length} of ${counted(photos.length)} …`);
    }
  };
  await Promise.all(Array.from({ length: atOnce }, work));
  if (!mine.signal.aborted) sumUp(answers, files.length - photos.length);
}

/** Empty the results but for a heading, and return a placeholder for each card, so that they come in order. */
function clear(number) {
  for (const image of all(".ck-photo > img", results)) URL.revokeObjectURL(image.src);
  records.clear();
  const slots = Array.from({ length: number }, () => make("div", "ck-slot", { hidden: "" }));
  results.replaceChildren(...slots);
  return slots;
}

/** Show the heading with the first card; on a narrow screen the cards lie below the fold. */
function reveal() {
  if (find(".ck-results", results)) return;
  const download = make("button", "ck-download", { type: "button" }, "Download JSON");
  results.prepend(make("header", "ck-results", {}, make("h2", "", {}, "Captions"), download));
  const calm = matchMedia("(prefers-reduced-motion: reduce)").matches;
  if (results.getBoundingClientRect().top > innerHeight * 0.6)
    results.scrollIntoView({ behavior: calm ? "auto" : "smooth" });
}

function sumUp(answers, left) {
  const good = answers.filter((answer) => answer.captions).length;
  const lines = [`${good === answers.length ? "" : `${good} of `}${counted(answers.length)} captioned`];
  if (left) lines.push(`${left} more left out: ${maxPhotos} are captioned at a time`);
  const [only] = answers;
  tell(lines.join(". "), answers.length === 1 ? only.error ?? only.captions[0].text : "");
}

/** Return the service's record of a photo: its captions, or the error that it has none. */
async function caption(file, options, signal) {
  try {
    if (!file.size) throw new Error("is empty; choose another photo");
    if (file.size > maxBytes) throw new Error(`has more than the ${(maxBytes / 2 ** 20).toFixed(0)} MB that are taken`);
    const [result] = (await (await ask(`v1/captions?${options}`, file, signal)).json()).results;
    return { ...result, path: file.name };
  } catch (error) {
    return { path: file.name, error: `${file.name}: ${error.message}` };
  }
}

/** Send a photo; while the service is too busy, wait as long as it says and try again. */
async function ask(address, file, signal) {
  const type = file.type.startsWith("image/") ? file.type : "image/unknown";
  for (let tried = 1; ; tried++) {
    let reply;
    try {
      reply = await fetch(address, { method: "POST", body: file, headers: { "Content-Type": type }, signal });
    } catch {
      throw new Error("the service does not answer; is it still running?");
    }
    if (reply.ok) return reply;
    const seconds = Number(reply.headers.get("Retry-After"));
    if (!seconds || tried > retries) throw new Error(await reasonOf(reply));
    await new Promise((done) => { setTimeout(done, 1000 * Math.min(seconds, 60)); signal?.addEventListener("abort", done); });
  }
}

/** Return an error's message, which a proxy in between may have replaced by a page. */
async function reasonOf(reply) {
  try {
    return (await reply.json()).error.message;
  } catch {
    return `the server answered ${reply.status} ${reply.statusText}`;
  }
}

// ---- cards

function errorCard(line) {
  return make("article", "ck-card ck-error", {}, make("h3", "", {}, "No caption"), make("p", "", { dir: "auto" }, line));
}

function photoCard(file, answer, number, isAlt) {
  const [best, ...others] = answer.captions;
  const text = make("div", "ck-text", {},
    make("h3", "ck-name", { id: `ck-name-${number}`, dir: "auto" }, file.name),
    captionOf(best, isAlt, "ck-best"));
  if (others.length) text.append(make("h4", "", {}, "Other captions"),
    make("ol", "ck-others", {}, ...others.map((other) => make("li", "", {}, captionOf(other, isAlt)))));
  if (answer.note) text.append(make("p", "ck-took", { dir: "auto" }, `The file ${answer.note}`));
  const took = Object.values(answer.ms).reduce((sum, part) => sum + part, 0);
  text.append(make("p", "ck-took", {}, `Captioned in ${took.toFixed(0)} ms`));
  return make("article", "ck-card", { "aria-labelledby": `ck-name-${number}` }, figureOf(file, answer, best.text), text);
}

/** Return the photo below the veil that is drawn for a word, over the part of it that the model saw. */
function figureOf(file, answer, alt) {
  const [left, top, right, bottom] = answer.region ?? [0, 0, 1, 1];
  const veil = make("canvas");
  Object.assign(veil.style, { left: `${100 * left}%`, top: `${100 * top}%` });
  Object.assign(veil.style, { width: `${100 * (right - left)}%`, height: `${100 * (bottom - top)}%` });
  const photo = make("div", "ck-photo", {}, imageOf(file, alt), make("span", "ck-veil", { "aria-hidden": "true" }, veil));
  const line = hasAttention ? hint : "Point at a word or tap it to see how sure the model is of it.";
  return make("figure", "ck-figure", {}, photo,
    make("figcaption", "ck-looked", { "aria-live": "polite", "data-hint": line }, line));
}

/** Return the photo's element; where the browser cannot open its kind, such as HEIC, the service makes a JPEG of it. */
function imageOf(file, alt) {
  const image = make("img", "", { alt });
  image.addEventListener("load", () => {
    image.parentElement.style.setProperty("--ratio", image.naturalWidth / image.naturalHeight);
  });
  image.addEventListener("error", async () => {
    URL.revokeObjectURL(image.src);
    try {
      image.src = URL.createObjectURL(await (await ask("ui/preview", file)).blob());
    } catch (error) {
      image.closest(".ck-card")?.querySelector(".ck-took")?.before(
        make("p", "ck-took", {}, `The photo cannot be shown: ${error.message}`));
    }
  }, { once: true });
  image.src = URL.createObjectURL(file);
  return image;
}

function captionOf(caption, isAlt, className = "") {
  const bar = make("span", "ck-bar", { "aria-hidden": "true" }, make("span"));
  bar.firstChild.style.width = percent(caption.confidence);
  const sure = make("p", "ck-sure", {}, bar,
    make("span", "", {}, caption.review ? "not sure" : `${percent(caption.confidence)} sure`),
    make("span", "ck-copies", {},
      copyButton("Copy", caption.text, `Copy “${caption.text}”`),
      copyButton('alt=""', altAttribute(caption.text), `Copy “${caption.text}” as an alt attribute`)));
  const words = make("p", "ck-words", { dir: "auto", role: "toolbar", "aria-label": caption.text });
  caption.words.forEach((word, place) => words.append(...(place ? [" "] : []), wordButton(word, place === 0)));
  const alt = isAlt ? [make("p", "ck-alt", { dir: "auto" }, caption.text)] : [];
  return make("div", `ck-caption ${className} ${isAlt ? "ck-is-alt" : ""}`, {}, ...alt, words, sure);
}

function copyButton(label, text, name) {
  return make("button", "ck-copy", { type: "button", "data-text": text, "aria-label": name }, label);
}

/** Return an HTML attribute, to be pasted into the tag of an image. */
function altAttribute(text) {
  const escapes = { "&": "&amp;", '"': "&quot;", "<": "&lt;", ">": "&gt;" };
  return `alt="${text.replace(/[&"<>]/g, (letter) => escapes[letter])}"`;
}

/** Return the button of a word; arrow keys move between words, so only the first is a tab stop. */
function wordButton(word, isReached) {
  const unsure = word.confidence < 0.5 ? " ck-unsure" : "";
  const button = make("button", `ck-word${unsure}`, { type: "button", "aria-pressed": "false", tabindex: isReached ? 0 : -1 }, word.text);
  button.style.setProperty("--sure", percent(word.confidence));
  button.dataset.looked = `${word.text}: ${percent(word.confidence)} sure`;
  if (word.attention) {
    button.dataset.looked += `, looked ${lookedAt(word.attention)}`;
    attentions.set(button, word.attention);
  }
  return button;
}

// ---- attention

/** Return a map scaled by its own maximum, rows of cells in 0 to 1. */
function relative(attention) {
  const most = Math.max(...attention.flat(), Number.MIN_VALUE);
  return attention.map((row) => row.map((cell) => Math.min(Math.max(cell / most, 0), 1)));
}

/** Say where a map looks, such as "at the top left": the centre of mass of what is above the mean, since soft attention
 * gives some to all cells; "all over the photo" if no cell has twice the mean. */
function lookedAt(attention) {
  const cells = relative(attention);
  const mean = cells.flat().reduce((sum, cell) => sum + cell, 0) / cells.flat().length;
  const excess = cells.map((row) => row.map((cell) => Math.max(cell - mean, 0)));
  const mass = excess.flat().reduce((sum, cell) => sum + cell, 0);
  if (1 < 2 * mean || !mass) return "all over the photo";
  const third = (weights) => {
    const centre = weights.reduce((sum, weight, place) => sum + weight * (place + 0.5), 0) / mass / weights.length;
    return Math.min(Math.floor(3 * centre), 2);
  };
  const down = third(excess.map((row) => row.reduce((sum, cell) => sum + cell, 0)));
  const across = third(excess[0].map((_, column) => excess.reduce((sum, row) => sum + row[column], 0)));
  const places = [["top", "middle", "bottom"][down], ["left", "middle", "right"][across]];
  const named = places.filter((place) => place !== "middle");
  return `at the ${named.join(" ") || "middle"}`;
}

/** Return values resampled to `scale` times as many, by cubic convolution (a = -0.5), which draws no lines at cells. */
function resampled(values, scale) {
  const weight = (x) => (x < 1 ? (1.5 * x - 2.5) * x * x + 1 : x < 2 ? ((-0.5 * x + 2.5) * x - 4) * x + 2 : 0);
  return Array.from({ length: values.length * scale }, (_, place) => {
    const at = (place + 0.5) / scale - 0.5;
    let [sum, total] = [0, 0];
    for (let n = Math.max(0, Math.ceil(at - 2)); n <= Math.min(values.length - 1, Math.floor(at + 2)); n++) {
      sum += values[n] * weight(Math.abs(n - at));
      total += weight(Math.abs(n - at));
    }
    return sum / total;
  });
}

const transposed = (rows) => rows[0].map((_, column) => rows.map((row) => row[column]));

/** Draw a map as grey and alpha that, stretched over the part that the model saw, lights the photo there and dims the
 * rest, as the figures that captionkit writes do: 0.22 of the light remains where it did not look, and where it looked
 * most, 0.12 of white is added. */
function drawVeil(canvas, attention) {
  const scale = 4;
  const rows = relative(attention).map((row) => resampled(row, scale));
  const light = transposed(transposed(rows).map((column) => resampled(column, scale)));
  [canvas.height, canvas.width] = [light.length, light[0].length];
  const context = canvas.getContext("2d");
  const image = context.createImageData(canvas.width, canvas.height);
  light.flat().forEach((value, place) => {
    const lit = Math.min(Math.max(value, 0), 1);
    const alpha = 1 - (0.22 + (1 - 0.22 - 0.12) * lit);
    image.data.fill((255 * 0.12 * lit) / alpha, 4 * place, 4 * place + 3);
    image.data[4 * place + 3] = 255 * alpha;
  });
  context.putImageData(image, 0, 0);
}

// ---- words: shown while the pointer is on them, while they have the focus, or, clicked, until the next

const wordOf = (event) => event.target.closest?.(".ck-word");

function show(button) {
  const card = button.closest(".ck-card");
  for (const other of all(".ck-shown", card)) other.classList.remove("ck-shown");
  button.classList.add("ck-shown");
  const attention = attentions.get(button);
  if (attention) drawVeil(find(".ck-veil canvas", card), attention);
  card.classList.toggle("ck-looking", Boolean(attention));
  find(".ck-looked", card).textContent = button.dataset.looked;
}

function rest(card) {
  const pinned = find(".ck-word[aria-pressed='true']", card);
  const focused = card.contains(document.activeElement) && document.activeElement.closest(".ck-word");
  if (pinned || focused) return show(pinned || focused);
  for (const shown of all(".ck-shown", card)) shown.classList.remove("ck-shown");
  card.classList.remove("ck-looking");
  const line = find(".ck-looked", card);
  line.textContent = line.dataset.hint;
}

function pin(button) {
  const isPressed = button.getAttribute("aria-pressed") !== "true";
  const card = button.closest(".ck-card");
  for (const other of all(".ck-word", card)) other.setAttribute("aria-pressed", "false");
  button.setAttribute("aria-pressed", String(isPressed));
  if (isPressed) show(button);
  else { button.blur(); rest(card); }
}

/** Move the focus within a caption, which is one stop of the tab key. */
function move(button, step) {
  const words = all(".ck-word", button.parentElement);
  const last = words.length - 1;
  const here = words.indexOf(button);
  const next = words[{ first: 0, last, before: Math.max(0, here - 1), after: Math.min(last, here + 1) }[step]];
  for (const other of words) other.tabIndex = other === next ? 0 : -1;
  next.focus();
}

results.addEventListener("pointerover", (event) => { if (wordOf(event) && event.pointerType === "mouse") show(wordOf(event)); });
results.addEventListener("pointerout", (event) => {
  if (wordOf(event) && event.pointerType === "mouse") rest(wordOf(event).closest(".ck-card"));
});
results.addEventListener("focusin", (event) => { if (wordOf(event)) show(wordOf(event)); });
results.addEventListener("focusout", (event) => {
  const card = wordOf(event)?.closest(".ck-card");
  if (card) setTimeout(() => { if (card.isConnected) rest(card); });
});
results.addEventListener("keydown", (event) => {
  const button = wordOf(event);
  if (!button) return;
  const isRightToLeft = getComputedStyle(button).direction === "rtl";
  const [left, right] = isRightToLeft ? ["after", "before"] : ["before", "after"];
  const step = { ArrowLeft: left, ArrowRight: right, Home: "first", End: "last" }[event.key];
  if (step) { event.preventDefault(); move(button, step); }
  if (event.key === "Escape") { button.setAttribute("aria-pressed", "true"); pin(button); }
});
results.addEventListener("click", async (event) => {
  if (wordOf(event)) pin(wordOf(event));
  const copy = event.target.closest(".ck-copy");
  if (copy) acknowledge(copy, (await copied(copy.dataset.text)) ? "Copied" : "Not copied: select the text instead");
  if (event.target.closest(".ck-download")) download();
});

async function copied(text) {
  try {
    await navigator.clipboard.writeText(text); // browsers have it on this machine or over HTTPS only
    return true;
  } catch {
    const field = document.body.appendChild(make("textarea"));
    field.value = text;
    field.select();
    const done = document.execCommand("copy");
    field.remove();
    return done;
  }
}

function acknowledge(button, text) {
  const before = button.dataset.before ?? button.textContent;
  button.dataset.before = before;
  button.textContent = text;
  button.setAttribute("aria-live", "polite");
  setTimeout(() => { button.textContent = before; }, 2000);
}

function download() {
  const found = all(".ck-card", results).map((card) => records.get(card));
  const link = make("a", "", { download: "captions.json" });
  link.href = URL.createObjectURL(new Blob([JSON.stringify(found, null, 1)], { type: "application/json" }));
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60000);
}

// ---- photos, dropped and pasted anywhere on the page, so that nobody has to aim

const drop = find(".ck-drop");
const holdsFiles = (transfer) => [...(transfer?.types ?? [])].includes("Files");
let depth = 0;
const mark = (isOver) => drop.classList.toggle("ck-over", isOver);

document.addEventListener("dragenter", (event) => { if (holdsFiles(event.dataTransfer)) mark(++depth > 0); });
document.addEventListener("dragleave", (event) => { if (holdsFiles(event.dataTransfer)) mark(--depth > 0); });
document.addEventListener("dragover", (event) => { if (holdsFiles(event.dataTransfer)) event.preventDefault(); });
document.addEventListener("drop", (event) => {
  if (!holdsFiles(event.dataTransfer)) return;
  event.preventDefault();
  mark((depth = 0) > 0);
  captionAll([...event.dataTransfer.files]);
});
document.addEventListener("paste", (event) => {
  const files = [...(event.clipboardData?.files ?? [])];
  if (!files.length) return;
  event.preventDefault();
  captionAll(files);
});
drop.addEventListener("change", (event) => {
  if (event.target.type !== "file") return;
  const files = [...event.target.files];
  event.target.value = ""; // so that the same photo may be chosen again
  if (files.length) captionAll(files);
});
drop.addEventListener("click", async (event) => {
  const example = find("img", event.target.closest(".ck-example") ?? make("p"));
  if (example) captionAll([await fetched(example.src)]);
  if (event.target.closest(".ck-camera")) openCamera();
  if (event.target.closest(".ck-take")) take();
  if (event.target.closest(".ck-close")) find(".ck-dialog").close();
});

async function fetched(address) {
  const photo = await (await fetch(address)).blob();
  return new File([photo], address.split("/").pop(), { type: photo.type });
}

// The camera; browsers give it to pages of this machine or over HTTPS only. Elsewhere "Choose photos" offers a phone's.
const video = find(".ck-dialog video");
find(".ck-camera").hidden = !navigator.mediaDevices?.getUserMedia;
find(".ck-dialog").addEventListener("close", () => {
  video.srcObject?.getTracks().forEach((track) => track.stop());
  video.srcObject = null;
});

async function openCamera() {
  try {
    video.srcObject = await navigator.mediaDevices.getUserMedia({ video: { facingMode: "environment" } });
    complain("");
    find(".ck-dialog").showModal();
  } catch (error) {
    complain(`The camera cannot be used (${error.message}); allow it in the browser, or choose a photo.`);
  }
}

async function take() {
  const canvas = make("canvas");
  [canvas.width, canvas.height] = [video.videoWidth, video.videoHeight];
  canvas.getContext("2d").drawImage(video, 0, 0);
  const photo = await new Promise((done) => { canvas.toBlob(done, "image/jpeg", 0.92); });
  find(".ck-dialog").close();
  if (photo) captionAll([new File([photo], "camera.jpg", { type: "image/jpeg" })]);
}

// ---- settings, and folds that links lead to

settings.addEventListener("submit", (event) => {
  event.preventDefault();
  captionAll(given);
});
settings.addEventListener("input", adjust);

function adjust() {
  for (const output of all("output", settings)) output.value = find("input", output.parentElement).value;
  for (const part of all("[data-way]", settings)) part.hidden = part.dataset.way !== settings.elements.way.value;
}

adjust(); // a browser that goes back restores what was chosen
for (const fold of all("a[href^='#ck-']"))
  fold.addEventListener("click", () => { find(fold.getAttribute("href")).open = true; });
for (const address of all(".ck-address")) address.textContent = location.href.replace(/[?#].*/, "");
