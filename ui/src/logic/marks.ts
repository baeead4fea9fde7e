/** Marks in the map: where a tail formed, and where a trap came. */

import type { Grid } from "../data/merge";

export interface Mark {
  readonly layer: number;
  readonly report: number;
  readonly kind: "tail" | "trap";
}

/** Whether a mark belongs at the next report of a layer, which has this value. */
type Judge = (value: number, layer: number) => boolean;

/** A tail that was there a moment ago and comes back is no news. */
const ABSENT = 3;

/** A tail formed: `reliable` became 1 after at least three reports without, or for the first time. */
function tailJudge(layers: number): Judge {
  const absent = new Int32Array(layers);
  const before = new Uint8Array(layers);
  return (value, layer) => {
    if (Number.isNaN(value)) return false;
    const gone = absent[layer] as number;
    absent[layer] = value === 1 ? 0 : gone + 1;
    if (value !== 1) return false;
    const formed = gone >= ABSENT || (gone > 0 && !before[layer]);
    if (formed) before[layer] = 1;
    return formed;
  };
}

/** A trap came: `num_traps` rose above everything before it. */
function trapJudge(layers: number): Judge {
  const most = new Float64Array(layers).fill(Number.NaN);
  return (value, layer) => {
    const came = value > (most[layer] as number);
    if (came || Number.isNaN(most[layer])) most[layer] = value;
    return came;
  };
}

/** Looks at each row of a column once, and remembers its marks. */
class Finder {
  private marks: readonly Mark[] = [];
  private base: unknown;
  private rows = 0;
  private judge: Judge = () => false;

  constructor(
    private readonly kind: Mark["kind"],
    private readonly begin: (layers: number) => Judge,
  ) {}

  find(grid: Grid | undefined): readonly Mark[] {
    if (grid?.base !== this.base) {
      this.base = grid?.base;
      this.judge = this.begin(grid?.layers ?? 0);
      this.rows = 0;
      this.marks = [];
    }
    if (!grid) return this.marks;
    const found: Mark[] = [];
    for (let report = this.rows; report < grid.rows; report++) {
      for (let layer = 0; layer < grid.layers; layer++) {
        const value = grid.values[report * grid.layers + layer] as number;
        if (this.judge(value, layer)) found.push({ layer, report, kind: this.kind });
      }
    }
    this.rows = grid.rows;
    if (found.length) this.marks = [...this.marks, ...found];
    return this.marks;
  }
}

/** The marks of all layers of a run that grows. */
export class MarkFinder {
  private readonly tails = new Finder("tail", tailJudge);
  private readonly traps = new Finder("trap", trapJudge);

  find(reliable: Grid | undefined, traps: Grid | undefined): readonly Mark[] {
    return [...this.tails.find(reliable), ...this.traps.find(traps)];
  }
}
