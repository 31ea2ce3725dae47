/**
 * Beam search for one image, as captionkit/inference/search/single_image.py does it: the same hypotheses in the same
 * order, from the same log-probabilities.
 */

/**
 * Return the token ids of the best caption, without the end token; null if no caption is possible.
 *
 * `step(tokens, parents, state, ranks)` resolves to {logProbs, ids, state}: for each hypothesis, the likeliest `ranks`
 * tokens, best first. `decoding` is that of the model's config.json; `banned` is a Set of ids that are in no caption.
 */
export async function beamSearch(step, state, decoding, { start, end, banned }) {
  const beams = decoding.num_beams;
  let live = [{ logProb: 0, words: [] }];
  let tokens = [start];
  let parents = [0];
  let best = null;
  for (let length = 0; length <= decoding.max_length; length++) {
    const forbidden = live.map(({ words }) => forbiddenAfter(words, decoding.no_repeat_ngram_size));
    // Only excluded tokens can precede the ones that are looked for, so no later rank can matter.
    const ranks = beams + new Set([...banned, end]).size + Math.max(...forbidden.map((ids) => ids.size));
    const found = await step(tokens, parents, state, ranks);
    state = found.state;
    const excluded = length >= decoding.min_length ? banned : new Set([...banned, end]);
    const options = live
      .flatMap(({ logProb }, beam) =>
        found.ids[beam]
          .map((token, rank) => ({ logProb: logProb + found.logProbs[beam][rank], beam, token }))
          .filter(({ logProb, token }) => logProb > -Infinity && !excluded.has(token) && !forbidden[beam].has(token))
          .slice(0, 2 * beams),
      )
      .sort((one, other) => other.logProb - one.logProb) // stable: equal ones keep their order
      .slice(0, 2 * beams);
    const ended = options.slice(0, beams).filter(({ token }) => token === end);
    for (const { logProb, beam } of ended) {
      const score = logProb / divisor(decoding, length + 1);
      if (best === null || score > best.score) best = { score, words: live[beam].words };
    }
    if (length === decoding.max_length) {
      const cut = live.filter((_, beam) => !ended.some((option) => option.beam === beam));
      return best ? best.words : (likeliest(cut)?.words ?? null);
    }
    const chosen = options.filter(({ token }) => token !== end).slice(0, beams);
    if (isDone(chosen, ended, best, length, decoding)) break;
    live = chosen.map(({ logProb, beam, token }) => ({ logProb, words: [...live[beam].words, token] }));
    tokens = chosen.map(({ token }) => token);
    parents = chosen.map(({ beam }) => beam);
  }
  return best && best.words;
}

/** Return the tokens that may not follow `words`: the last one, and what would repeat a run of `size` words. */
function forbiddenAfter(words, size) {
  const found = new Set();
  if (!size || !words.length) return found;
  found.add(words.at(-1));
  const before = size - 1;
  const begun = words.slice(words.length - before);
  for (let at = 0; at + before < words.length; at++) {
    if (begun.every((word, place) => words[at + place] === word)) found.add(words[at + before]);
  }
  return found;
}

/** Return whether no hypothesis is live, or none that is could still have a higher score than the best. */
function isDone(chosen, ended, best, length, decoding) {
  if (!chosen.length || (ended.length && decoding.num_beams === 1)) return true;
  const longest = decoding.max_length + 1;
  const horizon = decoding.early_stop_horizon;
  const furthest = horizon ? Math.min(longest, length + 1 + horizon) : longest;
  return best !== null && best.score >= chosen[0].logProb / divisor(decoding, furthest);
}

/** Return the divisor of a log-probability for its score; `length` counts the words and the end token. */
function divisor(decoding, length) {
  return length ** decoding.length_penalty;
}

function likeliest(hypotheses) {
  return hypotheses.reduce((best, one) => (best && best.logProb >= one.logProb ? best : one), undefined);
}
