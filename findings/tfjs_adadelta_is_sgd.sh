#!/usr/bin/env bash
# @tensorflow/tfjs 4.22.0 (npm): the Adadelta optimizer makes the steps of plain gradient descent, whatever rho is.
#
# Expected: steps that do not depend on the scale of the gradients, as in Zeiler's paper and in Keras: the first one
#   has the size of sqrt(epsilon / (1 - rho)), 0.0014 times the learning rate by default, for a gradient of 1 as for
#   one of 1000.
# Observed: the step is the gradient times the learning rate. The squares of the gradients that are divided by are
#   those of the steps before, without the current one, so both sums start at 0 and stay equal: their ratio is always
#   1. With gradients of very different sizes, three rhos and three epsilons, 200 steps give the weights of sgd.
# Why it matters: one chooses Adadelta to be free of the scale. Here it diverges where SGD does, and the docs give a
#   default learning rate of 0.001 for it. The same model trained with Keras and in a browser takes other steps.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
npm install --silent --no-audit --no-fund @tensorflow/tfjs@4.22.0 > npm.log 2>&1 || { cat npm.log; exit 1; }
cat > run.mjs <<'JS'
import { strict as assert } from "node:assert";
import * as tf from "@tensorflow/tfjs";

await tf.setBackend("cpu");
console.log("tfjs", tf.version.tfjs, "node", process.versions.node);
const train = (optimizer, steps) => {
  const [weights, target] = [tf.variable(tf.tensor([1, -2, 3])), tf.tensor([0.5, 1, -1])];
  const loss = () => tf.sum(tf.mul(tf.tensor([0.1, 10, 0.001]), tf.square(tf.sub(weights, target))));
  for (let step = 0; step < steps; step++) optimizer.minimize(loss);
  return Array.from(weights.dataSync());
};
const steps = 200;
const sgd = train(tf.train.sgd(0.01), steps);
console.log("sgd:", sgd);
for (const [rho, epsilon] of [[0.95, 1e-7], [0.5, 1e-3], [0.9, 1e-6]]) {
  const found = train(tf.train.adadelta(0.01, rho, epsilon), steps);
  console.log(`adadelta, rho ${rho}, epsilon ${epsilon}:`, found);
  found.forEach((value, i) => assert(Math.abs(value - sgd[i]) < 1e-3, "the behavior has changed"));
}
const adam = train(tf.train.adam(0.01), steps);
console.log("adam:", adam);
assert(Math.abs(adam[0] - sgd[0]) > 0.05);
JS
node run.mjs
