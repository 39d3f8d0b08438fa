import http from "node:http";

const SOCKET_PATH = "/run/tf-wrapper/plugin/plugin.sock";
const MAX_ANSWER_BYTES = 64 * 1024;

/** An answer that is missing, late or not of the protocol: the caller blocks. */
export class NoAnswerError extends Error {}

/** The wrapper's daemon, one connection a request: a kept connection could be stale exactly when it counts. */
export class Daemon {
  /**
   * Post `body` as JSON and return `{status, body}`.
   *
   * `idleMs` bounds each silence, so that a hung daemon is noticed early; `totalMs` bounds the whole call.
   */
  async post(path, body, { idleMs = 5_000, totalMs = 10_000, signal } = {}) {
    const deadline = AbortSignal.timeout(totalMs);
    const answer = await send({
      path,
      payload: JSON.stringify(body),
      idleMs,
      signal: signal ? AbortSignal.any([signal, deadline]) : deadline,
    });
    if (answer.status === 204) return { status: 204, body: null };
    return { status: answer.status, body: JSON.parse(answer.text) };
  }
}

function send({ path, payload, idleMs, signal }) {
  return new Promise((resolve, reject) => {
    const request = http.request(
      {
        socketPath: SOCKET_PATH,
        path,
        method: "POST",
        agent: false,
        signal,
        headers: { "content-type": "application/json", "content-length": Buffer.byteLength(payload) },
      },
      (response) => collect(response).then((text) => resolve({ status: response.statusCode, text }), reject),
    );
    request.setTimeout(idleMs, () => request.destroy(new NoAnswerError("the daemon is silent")));
    request.on("error", reject);
    request.end(payload);
  });
}

async function collect(response) {
  const chunks = [];
  let size = 0;
  for await (const chunk of response) {
    size += chunk.length;
    if (size > MAX_ANSWER_BYTES) throw new NoAnswerError("the daemon's answer is too long");
    chunks.push(chunk);
  }
  return Buffer.concat(chunks).toString("utf8");
}
