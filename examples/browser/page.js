/** The page: hands an image to the worker and shows its caption. */

const [drop, input, photo, caption, status] = ["drop", "file", "photo", "caption", "status"].map((id) =>
  document.getElementById(id),
);
const worker = new Worker("./worker.js", { type: "module" });

worker.onmessage = ({ data: { ready, caption: text, seconds, error } }) => {
  if (ready && photo.src) return; // its image is already being captioned
  if (text !== undefined) {
    caption.textContent = photo.alt = text;
  }
  tell(error ?? (ready ? "Ready." : `${seconds.toFixed(2)} seconds.`), Boolean(error));
};
worker.onerror = () => tell("The captioner cannot be started; is onnxruntime-web installed (npm install)?", true);

input.addEventListener("change", () => {
  show(input.files[0]);
  input.value = ""; // so that the same file may be chosen again
});
document.addEventListener("paste", (event) => show(event.clipboardData.files[0]));
for (const kind of ["dragover", "dragleave", "drop"]) {
  document.addEventListener(kind, (event) => {
    event.preventDefault();
    drop.classList.toggle("over", kind === "dragover");
    if (kind === "drop") show(event.dataTransfer.files[0]);
  });
}

function show(file) {
  if (!file) return;
  URL.revokeObjectURL(photo.src);
  photo.src = URL.createObjectURL(file);
  photo.alt = caption.textContent = "";
  photo.parentElement.hidden = false;
  tell("Looking at the image ...");
  worker.postMessage({ file });
}

function tell(text, isError = false) {
  status.textContent = text;
  status.classList.toggle("error", isError);
}
