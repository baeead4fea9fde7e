/** Where the axis of log10 λ and axes of counts have ticks. */

/** Whole powers of ten inside a range of exponents, at most about `most` of them; halves if there are fewer than two. */
export function exponentTicks(low: number, high: number, most = 8): number[] {
  const every = Math.max(1, Math.ceil((high - low) / most));
  const ticks: number[] = [];
  for (let e = Math.ceil(low / every) * every; e <= high + 1e-9; e += every) ticks.push(e);
  if (ticks.length >= 2 || !(high > low)) return ticks;
  const halves: number[] = [];
  for (let e = Math.ceil(low * 2) / 2; e <= high + 1e-9; e += 0.5) halves.push(e);
  return halves;
}

/** Powers of ten from the one at or below `low` to `high`. */
export function decades(low: number, high: number): number[] {
  const ticks: number[] = [];
  for (let e = Math.ceil(Math.log10(low) - 1e-9); 10 ** e <= high * 1.0001; e++) ticks.push(10 ** e);
  return ticks;
}
