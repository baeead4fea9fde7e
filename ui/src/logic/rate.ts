/** What came of the learning rate, in words. */

import type { Curve, Numbers } from "../data/contract";
import { count, number } from "./format";
import { lastAtMost } from "./steps";

/** Values of which the median stands for a noisy curve at a step. */
const NEAR = 5;
const MOST_CURVES = 3;

/** The median of the last values of a curve up to a step; NaN if there are none. */
function levelAt(steps: readonly number[], values: Numbers, step: number): number {
  const end = lastAtMost(steps, step) + 1;
  const near: number[] = [];
  for (let i = end - 1; i >= 0 && near.length < NEAR; i--) {
    const value = values[i];
    if (value !== null && value !== undefined) near.push(value);
  }
  near.sort((a, b) => a - b);
  return near[near.length >> 1] ?? Number.NaN;
}

/** Where the last change of a rate began: before its last jump, or where it was largest; -1 if it is constant. */
function changeOf(rates: readonly number[]): number {
  // A jump is from one constant rate to another, not part of a schedule that moves on.
  const stays = (i: number): boolean => rates[i] === rates[i + 1];
  for (let i = rates.length - 2; i > 0; i--)
    if (!stays(i) && stays(i - 1) && (i + 2 === rates.length || stays(i + 1))) return i;
  const largest = Math.max(...rates);
  return Math.min(...rates) < largest ? rates.indexOf(largest) : -1;
}

/** What the learning rate did last, and how losses, qualities and alpha have changed since; empty without a rate. */
export function rateInWords(curves: readonly Curve[], steps: readonly number[], alpha: Numbers): string {
  const rate = curves.find(({ group }) => group === "rate");
  const known = rate ? rate.steps.flatMap((_, i) => (rate.values[i] === null ? [] : [i])) : [];
  if (!rate || !known.length) return "";
  const rates = known.map((i) => rate.values[i] as number);
  const [from, last] = [changeOf(rates), rates.length - 1];
  const start = rate.steps[known[Math.max(0, from)] as number] as number;
  const next = rate.steps[known[Math.min(last, from + 1)] as number] as number;
  const what =
    from < 0
      ? `${rate.name} is ${number(rates[0])} throughout.`
      : `${rate.name} was ${number(rates[from])} at step ${count(start)}, ${number(rates[from + 1])} at step ${count(next)}` +
        `${from + 1 < last && rates[last] !== rates[from + 1] ? `, and is ${number(rates[last])} now` : ""}.`;
  const quantities = [
    ...curves.filter(({ group }) => group === "loss" || group === "quality").slice(0, MOST_CURVES),
    { name: "mean alpha", steps, values: alpha },
  ];
  const changes = quantities.flatMap(({ name, steps: at, values }) => {
    const [before, now] = [levelAt(at, values, start), levelAt(at, values, Number.POSITIVE_INFINITY)];
    return Number.isNaN(before) || Number.isNaN(now) ? [] : [`${name} ${number(before)} → ${number(now)}`];
  });
  return changes.length ? `${what} Since step ${count(start)}: ${changes.join(", ")}.` : what;
}
