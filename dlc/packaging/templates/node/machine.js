"use strict";
// What a variant of the chain needs and this machine lacks.

const fs = require("node:fs");
const ort = require("onnxruntime-node");

/** This machine cannot run a variant, or none of a package; says what it lacks. */
class UnfitError extends Error {}

/** The processor's flags by Linux's names; null if the system does not tell. */
function instructionSets() {
  if (fs.existsSync("/proc/cpuinfo")) {
    const line = fs.readFileSync("/proc/cpuinfo", "utf8").split("\n").find((each) => /^(flags|Features)\s*:/.test(each)) ?? "";
    return new Set(line.split(/\s+/));
  }
  return process.platform === "darwin" && process.arch === "arm64" ? new Set(["asimddp"]) : null; // every Apple processor since the M1
}

/** Throws UnfitError if the provider or every instruction set of a link is missing here. */
function check({ variant, isa, why }, { executionProviders: [provider] }) {
  const providers = ort.listSupportedBackends().map(({ name }) => name);
  if (!providers.includes(provider)) throw new UnfitError(`${variant} needs ${provider}, this onnxruntime-node has ${providers.join(", ")}`);
  const here = instructionSets();
  if (isa.length === 0 || isa.some((flag) => here?.has(flag))) return;
  const found = here ? "and this processor has none of them" : "which the system does not tell";
  throw new UnfitError(`${variant} needs one of ${isa.join(", ")}, ${found} (${why})`);
}

module.exports = { UnfitError, check };
