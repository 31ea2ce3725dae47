/** Captions images with a captionkit model folder, on onnxruntime-web. */

import * as ort from "./node_modules/onnxruntime-web/dist/ort.wasm.min.mjs";
import { decode, normalize, resize } from "./pixels.js";
import { beamSearch } from "./search.js";

ort.env.wasm.wasmPaths = new URL("./node_modules/onnxruntime-web/dist/", import.meta.url).href;
// Threads need the headers of cross-origin isolation; a plain static server sends none.
ort.env.wasm.numThreads = self.crossOriginIsolated ? navigator.hardwareConcurrency : 1;

const SPECIAL = ["<pad>", "<bos>", "<eos>", "<unk>"];
const CLITICS = new Set(["n't", "'s", "'re", "'ve", "'ll", "'d", "'m"]);
const CJK = /[\u3005-\u3007\u3041-\u309a\u309d-\u309f\u30a1-\u30fa\u30fc-\u30ff\u31f0-\u31ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\uff66-\uff9f\u{20000}-\u{3ffff}]/u;

export class Captioner {
  /** Fetch and open the model folder at `address`. Rejects with an Error that names the file. */
  static async load(address) {
    const [config, tokenizer] = await Promise.all(
      ["config.json", "tokenizer.json"].map(async (name) => (await fetched(address, name)).json()),
    );
    if (!config.preprocessing || !config.decoding) throw new Error(`${address}config.json: not of a captionkit model`);
    if (tokenizer.model?.type !== "WordLevel") {
      throw new Error(`${address}tokenizer.json: of ${tokenizer.model?.type} tokens; this page spells words only`);
    }
    check(config.decoding, `${address}config.json`);
    const [encoder, decoder] = await Promise.all(
      ["encoder.onnx", "decoder.onnx"].map(async (name) => {
        const graph = await (await fetched(address, name)).arrayBuffer();
        return ort.InferenceSession.create(graph, { executionProviders: ["wasm"] });
      }),
    );
    return new Captioner(config, tokenizer.model.vocab, encoder, decoder);
  }

  constructor({ preprocessing, decoding }, vocabulary, encoder, decoder) {
    Object.assign(this, { preprocessing, decoding, encoder, decoder });
    this.words = [];
    for (const [word, id] of Object.entries(vocabulary)) this.words[id] = word;
    const [pad, start, end, unknown] = SPECIAL.map((token) => vocabulary[token]);
    this.special = { start, end, banned: new Set([pad, start, unknown]) };
  }

  /** Caption an image file (a Blob): resolves to its caption. Rejects with an Error if it is no image. */
  async caption(file) {
    const image = await decode(file).catch(() => {
      throw new Error("the browser cannot open this file as an image; save it as JPEG or PNG");
    });
    const ids = await beamSearch(
      (...asked) => this.step(...asked),
      await this.begin(resize(image, this.preprocessing)),
      this.decoding,
      this.special,
    );
    if (ids === null) throw new Error("the model finds no caption for this image");
    return spell(ids.map((id) => this.words[id]));
  }

  /** Encode bytes [H,W,4]; the state has tensors by name. */
  async begin(bytes) {
    const { height, width } = this.preprocessing;
    const [name] = this.encoder.inputNames;
    const given =
      name === "pixels"
        ? new ort.Tensor("uint8", new Uint8Array(bytes.buffer), [1, height, width, 4])
        : new ort.Tensor("float32", normalize(bytes, this.preprocessing), [1, 3, height, width]);
    return this.encoder.run({ [name]: given });
  }

  /** Decode one step of K hypotheses; what is "memory.*" stays, and "state.*" follows. */
  async step(tokens, parents, state, ranks) {
    const given = {
      ...state,
      tokens: integers(tokens, [1, tokens.length]),
      parents: integers(parents, [1, parents.length]),
      top_k: integers([ranks], [1]),
    };
    const found = await this.decoder.run(Object.fromEntries(this.decoder.inputNames.map((name) => [name, given[name]])));
    const following = Object.entries(found).filter(([name]) => name.endsWith(".next"));
    return {
      logProbs: rows(found.log_probs),
      ids: rows(found.ids).map((row) => row.map(Number)),
      state: { ...state, ...Object.fromEntries(following.map(([name, value]) => [name.slice(0, -5), value])) },
    };
  }
}

async function fetched(address, name) {
  const response = await fetch(new URL(name, address)).catch((error) => {
    throw new Error(`${address}${name}: cannot be fetched (${error.message})`);
  });
  if (!response.ok) throw new Error(`${address}${name}: cannot be fetched (${response.status})`);
  return response;
}

/** Throw if a model is decoded by what this page does not do. */
function check(decoding, where) {
  const other = [
    ["temperature", 0],
    ["num_beam_groups", 1],
    ["prefix", ""],
    ["early_stopping", "exact"],
  ].find(([name, usual]) => (decoding[name] ?? usual) !== usual);
  const listed = ["bad_words", "force_words"].find((name) => decoding[name]?.length);
  const name = listed ?? other?.[0];
  if (name) throw new Error(`${where}: decodes with ${name}, which this page does not do`);
}

function integers(values, dims) {
  return new ort.Tensor("int64", BigInt64Array.from(values, BigInt), dims);
}

/** Return the rows of a tensor [1,K,T] as K arrays. */
function rows({ data, dims: [, many, width] }) {
  return Array.from({ length: many }, (_, row) => Array.from(data.subarray(row * width, (row + 1) * width)));
}

/** Join words to a sentence; clitics ("dog 's") and characters of Chinese and Japanese follow without a space. */
function spell(words) {
  return words.reduce((text, word) => {
    const joined = !text || CLITICS.has(word) || CJK.test([...text].at(-1)) || CJK.test([...word][0]);
    return joined ? text + word : `${text} ${word}`;
  }, "");
}
