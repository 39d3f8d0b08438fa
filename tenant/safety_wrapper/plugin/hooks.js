import { NoAnswerError } from "./daemon.js";

const PRIORITY = 1_000_000;
const NONCE = /^[A-Za-z0-9_-]{43}$/;
// An "ask" waits in the daemon for at most 540 s (the policy's limit); the gateway's own limit is 600 s.
const DECISION = { idleMs: 15_000, totalMs: 580_000 };

/** Register the guard: every failure inside a handler ends in "no model" or "no tool". */
export function registerHooks({ api, daemon }) {
  const runs = new RunReports({ daemon, logger: api.logger });
  api.on("before_prompt_build", (event, ctx) => promptLine({ daemon, runs, ctx }), { priority: PRIORITY });
  api.on("before_agent_run", (event, ctx) => admitRun({ daemon, ctx }), { priority: PRIORITY });
  api.on("before_tool_call", (event, ctx) => decideToolCall({ daemon, event, ctx }), { priority: PRIORITY });
  api.on("model_call_started", (event) => runs.report(event.runId, "model-calls", { call_id: event.callId }));
  api.on("after_tool_call", (event) => runs.toolEnded(event));
  api.on("agent_end", (event, ctx) => runs.report(event.runId ?? ctx.runId, "end", {}));
}

/** Without its line no model call of this run is admitted, so an error here needs no other answer. */
async function promptLine({ daemon, runs, ctx }) {
  await runs.settled(ctx.runId);
  const answer = await daemon.post("/v1/runs", {
    run_id: required(ctx.runId, "run id"),
    agent_id: ctx.agentId ?? "",
    session_key: ctx.sessionKey ?? "",
    trigger: ctx.trigger ?? "",
  });
  const nonce = answer.body?.nonce;
  if (answer.status !== 201 || !NONCE.test(nonce)) throw new NoAnswerError("the daemon gave no nonce");
  return { appendSystemContext: `[[tenantfleet-run ${nonce}]]` };
}

async function admitRun({ daemon, ctx }) {
  try {
    const answer = await daemon.post(`/v1/runs/${encodeURIComponent(required(ctx.runId, "run id"))}/start`, {});
    if (answer.status === 200 && answer.body?.allow === true) return { outcome: "pass" };
    return blockedRun(answer.body?.reason);
  } catch (error) {
    return blockedRun(error.message);
  }
}

function blockedRun(reason) {
  return {
    outcome: "block",
    reason: `safety-wrapper: ${text(reason, "the daemon refused this run")}`,
    message: "This run was stopped: the safety wrapper does not vouch for it.",
  };
}

async function decideToolCall({ daemon, event, ctx }) {
  try {
    const call = {
      run_id: required(event.runId ?? ctx.runId, "run id"),
      tool_call_id: required(event.toolCallId ?? ctx.toolCallId, "tool call id"),
      tool: required(event.toolName, "tool name"),
      params: event.params ?? {},
      session_key: ctx.sessionKey ?? "",
    };
    const answer = await daemon.post("/v1/tool-calls", call, { ...DECISION, signal: ctx.abortSignal });
    if (answer.status === 200 && answer.body?.decision === "allow") return undefined;
    return blockedCall(answer.body?.reason);
  } catch (error) {
    return blockedCall(`no decision (${error.message})`);
  }
}

function blockedCall(reason) {
  return { block: true, blockReason: `safety-wrapper: ${text(reason, "denied")}` };
}

/** Observations, which the gateway does not wait for. A lost one leaves the run with less, never with more. */
class RunReports {
  #daemon;
  #logger;
  #open = new Map();

  constructor({ daemon, logger }) {
    this.#daemon = daemon;
    this.#logger = logger;
  }

  report(runId, what, body) {
    return this.#post(runId, `/v1/runs/${encodeURIComponent(runId ?? "")}/${what}`, body);
  }

  toolEnded(event) {
    const path = `/v1/tool-calls/${encodeURIComponent(event.toolCallId ?? "")}/end`;
    return this.#post(event.runId, path, { run_id: event.runId });
  }

  /** A retried attempt keeps its run id: the end of the first must arrive before the second asks for a nonce. */
  settled(runId) {
    return Promise.all(this.#open.get(runId) ?? []);
  }

  #post(runId, path, body) {
    const open = this.#open.get(runId) ?? new Set();
    this.#open.set(runId, open);
    const sent = this.#daemon
      .post(path, body)
      .catch((error) => this.#logger?.warn?.(`safety-wrapper: report lost: ${error.message}`))
      .finally(() => {
        open.delete(sent);
        if (open.size === 0 && this.#open.get(runId) === open) this.#open.delete(runId);
      });
    open.add(sent);
    return sent;
  }
}

function required(value, what) {
  if (typeof value === "string" && value !== "") return value;
  throw new NoAnswerError(`the gateway gave no ${what}`);
}

function text(value, otherwise) {
  return typeof value === "string" && value !== "" ? value : otherwise;
}
