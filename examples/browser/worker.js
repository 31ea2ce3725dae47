/** Runs the captioner beside the page, which stays responsive. Takes files, posts {ready}, {caption, seconds} or {error}. */

import { Captioner } from "./captioner.js";

const captioner = Captioner.load(new URL("./model/", import.meta.url).href);
captioner.then(
  () => postMessage({ ready: true }),
  (error) => postMessage({ error: error.message }),
);

let queue = captioner;
onmessage = ({ data: { file } }) => {
  queue = queue.then(() => answer(file)).catch(() => {}); // one after another
};

async function answer(file) {
  const start = performance.now();
  try {
    const caption = await (await captioner).caption(file);
    postMessage({ caption, seconds: (performance.now() - start) / 1000 });
  } catch (error) {
    postMessage({ error: `${file.name}: ${error.message}` });
  }
}
