import { Daemon } from "./daemon.js";
import { registerHooks } from "./hooks.js";

// One gateway process loads this module twice (registration modes "full" and "discovery") and agent turns use
// only the second: both register everything, and neither keeps state that the other would need.
export default {
  id: "safety-wrapper",
  name: "Safety wrapper",
  register(api) {
    registerHooks({ api, daemon: new Daemon() });
  },
};
