/** Numbers, times and words as people read them. */

import type { Column, Value } from "../data/contract";

const whole = new Intl.NumberFormat("en-US", { maximumFractionDigits: 0 });

export const NONE = "–";

/** A step or a count, with a comma between thousands. */
export const count = (value: number | null | undefined): string =>
  value === null || value === undefined || Number.isNaN(value) ? NONE : whole.format(value);

/** A number with three or four significant digits. */
export function number(value: number | null | undefined, digits = 3): string {
  if (value === null || value === undefined || Number.isNaN(value)) return NONE;
  if (!Number.isFinite(value)) return value > 0 ? "∞" : "−∞";
  if (value === 0) return "0";
  const size = Math.abs(value);
  if (size >= 1e6 || size < 1e-4) return scientific(value, digits);
  const text = size >= 1000 ? whole.format(value) : trimmed(value.toPrecision(digits));
  return text.replace("-", "−");
}

const trimmed = (text: string): string => (text.includes(".") ? text.replace(/\.?0+$/, "") : text);

function scientific(value: number, digits: number): string {
  const [mantissa, exponent] = value.toExponential(digits - 1).split("e") as [string, string];
  return `${trimmed(mantissa)}e${exponent.replace("+", "")}`.replaceAll("-", "−");
}

const SUPERSCRIPTS = "⁰¹²³⁴⁵⁶⁷⁸⁹";

/** 10 to a whole power, such as 10⁻³. */
export function powerOfTen(exponent: number): string {
  const digits = [...String(Math.abs(exponent))].map((digit) => SUPERSCRIPTS[Number(digit)]).join("");
  return `10${exponent < 0 ? "⁻" : ""}${digits}`;
}

/** A value of a column, such as "3.41", "yes" or "random". */
export function columnValue(column: Pick<Column, "kind" | "words">, value: number): string {
  if (Number.isNaN(value)) return NONE;
  if (column.kind === "flag") return value ? "yes" : "no";
  if (column.kind === "words") return column.words[value] || NONE;
  return column.kind === "count" ? count(value) : number(value);
}

/** Any value of a cell. */
export function anyValue(value: Value | undefined): string {
  if (value === null || value === undefined || value === "") return NONE;
  if (typeof value === "boolean") return value ? "yes" : "no";
  if (typeof value === "string") return value;
  return Number.isInteger(value) && Math.abs(value) < 1e6 ? count(value) : number(value, 4);
}

/** Time since, such as "3 s ago". */
export function ago(seconds: number): string {
  if (!Number.isFinite(seconds)) return "";
  const s = Math.max(0, Math.round(seconds));
  if (s < 90) return `${s} s ago`;
  if (s < 90 * 60) return `${Math.round(s / 60)} min ago`;
  if (s < 36 * 3600) return `${Math.round(s / 3600)} h ago`;
  return `${Math.round(s / 86400)} days ago`;
}

/** "1 layer", "3 layers". */
export const plural = (n: number, one: string, many = `${one}s`): string => `${count(n)} ${n === 1 ? one : many}`;

/** A number and its interval, such as "3.4 (3.2 to 3.7)". */
export function withInterval(value: number, low: number, high: number): string {
  if (Number.isNaN(value)) return NONE;
  return Number.isNaN(low) || Number.isNaN(high)
    ? number(value)
    : `${number(value)} (${number(low)} to ${number(high)})`;
}

/** A place of a trap, such as "row 3 (4.2 times the median)". */
export function place(index: readonly number[], value: number, kind: string): string {
  const last = index[index.length - 1];
  if (kind === "rows") return `row ${last} (${number(value)} times the median)`;
  if (kind === "columns") return `column ${last} (${number(value)} times the median)`;
  return `(${index.join(", ")}): ${number(value)}`;
}
