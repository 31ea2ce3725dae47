// Photos dropped, pasted, chosen or taken are uploaded one by one, become the component's value, and are announced.
const most = MOST_PHOTOS;
const find = (selector) => element.querySelector(selector);
const say = (text) => { find(".ck-uploading").textContent = text; };
let turn = 0;

async function give(files) {
  const mine = ++turn; // whoever gives photos while others are on their way wants the new ones
  const chosen = [...files];
  if (!chosen.length) return;
  const uploaded = [];
  const problems = chosen.length > most ? [`${chosen.length - most} left out: ${most} are captioned at a time.`] : [];
  for (const [number, file] of chosen.slice(0, most).entries()) {
    say(`Uploading ${number + 1} of ${Math.min(chosen.length, most)} …`);
    try {
      const stored = await upload(file);
      uploaded.push({ path: stored.path, url: stored.url, orig_name: file.name, meta: { _type: "gradio.FileData" } });
    } catch (error) {
      problems.push(`${file.name}: not uploaded (${error.message || error}); try a smaller file.`);
    }
    if (mine !== turn) return;
  }
  say(problems.join(" "));
  if (!uploaded.length) return;
  props.value = uploaded;
  trigger("given");
}

element.addEventListener("change", (event) => {
  if (event.target.type !== "file") return;
  give(event.target.files);
  event.target.value = ""; // so that the same photo may be chosen again
});
element.addEventListener("click", async (event) => {
  const example = event.target.closest(".ck-example");
  if (example) {
    const photo = await (await fetch(example.querySelector("img").src)).blob();
    give([new File([photo], example.dataset.name, { type: photo.type })]);
  }
  if (event.target.closest(".ck-camera")) openCamera();
  if (event.target.closest(".ck-take")) take();
  if (event.target.closest(".ck-close")) find(".ck-dialog").close();
});

// Anywhere on the page, so that nobody has to aim.
const holdsFiles = (transfer) => [...(transfer?.types ?? [])].includes("Files");
let depth = 0;
const over = (there) => find(".ck-drop")?.classList.toggle("ck-over", there);
document.addEventListener("dragenter", (event) => { if (holdsFiles(event.dataTransfer)) over(++depth > 0); });
document.addEventListener("dragleave", (event) => { if (holdsFiles(event.dataTransfer)) over(--depth > 0); });
document.addEventListener("dragover", (event) => { if (holdsFiles(event.dataTransfer)) event.preventDefault(); });
document.addEventListener("drop", (event) => {
  if (!holdsFiles(event.dataTransfer)) return;
  event.preventDefault();
  over((depth = 0) > 0);
  give(event.dataTransfer.files);
});
document.addEventListener("paste", (event) => {
  const files = event.clipboardData?.files ?? [];
  if (!files.length) return;
  event.preventDefault();
  give(files);
});

// The camera; browsers give it to pages of this machine or over HTTPS only. Elsewhere "Choose photos" offers a phone's.
const hasCamera = Boolean(navigator.mediaDevices?.getUserMedia);
find(".ck-camera").hidden = !hasCamera;
if (hasCamera) find(".ck-dialog").addEventListener("close", () => {
  find("video").srcObject?.getTracks().forEach((track) => track.stop());
  find("video").srcObject = null;
});

async function openCamera() {
  try {
    find("video").srcObject = await navigator.mediaDevices.getUserMedia({ video: { facingMode: "environment" } });
    say("");
    find(".ck-dialog").showModal();
  } catch (error) {
    say(`The camera cannot be used (${error.message}); allow it in the browser, or choose a photo.`);
  }
}

async function take() {
  const video = find("video");
  const canvas = document.createElement("canvas");
  [canvas.width, canvas.height] = [video.videoWidth, video.videoHeight];
  canvas.getContext("2d").drawImage(video, 0, 0);
  const photo = await new Promise((done) => canvas.toBlob(done, "image/jpeg", 0.92));
  find(".ck-dialog").close();
  if (photo) give([new File([photo], "camera.jpg", { type: "image/jpeg" })]);
}

// Gradio's folds do not say whether they are open.
const folds = () => document.querySelectorAll(".gr-accordion > .label-wrap");
const tell = () => folds().forEach((fold) => fold.setAttribute("aria-expanded", String(fold.classList.contains("open"))));
const told = setInterval(() => { tell(); if (folds().length > 1) clearInterval(told); }, 200);
document.addEventListener("click", (event) => {
  if (event.target.closest("a[href='#ck-model-card']")) document.querySelector("#ck-model-card > .label-wrap:not(.open)")?.click();
  if (event.target.closest(".label-wrap")) setTimeout(tell);
});
