/** Tables whose cells are texts, the head first, as the command line prints them. */

const NOTHING = "-";

/** The table without columns in which no row has a value. */
export function withoutEmpty(sheet: readonly (readonly string[])[]): string[][] {
  const [head, ...rows] = sheet;
  const kept = (head ?? []).map((_, i) => rows.some((row) => (row[i] ?? NOTHING) !== NOTHING));
  return sheet.map((row) => row.filter((_, i) => kept[i]));
}

/** Whether all values of a column are numbers. */
export const isNumeric = (rows: readonly (readonly string[])[], column: number): boolean =>
  rows.every((row) => row[column] === NOTHING || !Number.isNaN(Number(row[column] || "x")));

/** Indices of the rows, sorted by a column: as numbers if they are, else as words. What has no value comes last. */
export function sortedRows(rows: readonly (readonly string[])[], column: number, up: boolean): number[] {
  const numeric = isNumeric(rows, column);
  const sign = up ? 1 : -1;
  return rows
    .map((_, i) => i)
    .sort((a, b) => {
      const [x, y] = [rows[a]?.[column] ?? NOTHING, rows[b]?.[column] ?? NOTHING];
      const missing = Number(x === NOTHING) - Number(y === NOTHING);
      if (missing || x === y) return missing || a - b;
      return sign * (numeric ? Number(x) - Number(y) : x.localeCompare(y, "en", { numeric: true }));
    });
}
