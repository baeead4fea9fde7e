/** One run as the page holds it, with the columns it has asked for; it asks the source for new reports only. */

import type { Rows, Run, Source } from "./contract";
import { continues, extended, type Grid, merged } from "./merge";
import { SourceError } from "./source";

export class HeldRun {
  run: Run | null = null;
  readonly grids = new Map<string, Grid>();
  /** Why a column is not there. */
  readonly errors = new Map<string, string>();
  private wanted: readonly string[] = [];
  private readonly loading = new Map<string, Promise<void>>();

  constructor(
    private readonly source: Source,
    readonly id: string,
    private readonly changed: () => void,
  ) {}

  /** Asks for what is new. The listener is called once, when new rows of all wanted columns are there too. */
  async refresh(): Promise<void> {
    const before = this.run;
    let added = await this.source.run(this.id, before?.steps.length ?? 0);
    if (before && !continues(before, added) && added.from > 0) added = await this.source.run(this.id, 0);
    if (before && !continues(before, added)) this.grids.clear();
    this.run = merged(before, added);
    if (!before) this.changed();
    await Promise.all(this.wanted.map((name) => this.load(name)));
    this.changed();
  }

  /** Keeps these columns up to date from now on, and no others. */
  follow(names: readonly string[]): void {
    this.wanted = names;
    const run = this.run;
    const missing = run ? names.filter((name) => (this.grids.get(name)?.rows ?? 0) < run.steps.length) : [];
    // If the server cannot be reached, the next refresh asks again and says so.
    if (missing.length) Promise.all(missing.map((name) => this.load(name))).then(this.changed, () => undefined);
  }

  private load(name: string): Promise<void> {
    const running = this.loading.get(name);
    if (running) return running;
    const started = this.loadMore(name).finally(() => this.loading.delete(name));
    this.loading.set(name, started);
    return started;
  }

  private async loadMore(name: string): Promise<void> {
    const run = this.run;
    if (!run?.columns.some((column) => column.name === name)) return;
    const from = this.grids.get(name)?.rows ?? 0;
    if (from >= run.steps.length) return;
    let added: Rows;
    try {
      added = await this.source.column(this.id, name, from);
      this.errors.delete(name);
    } catch (problem) {
      if (!(problem instanceof SourceError) || problem.status === 0) throw problem;
      this.errors.set(name, problem.message);
      return;
    }
    // Rows of a run that was started again wait until its reports are here, too.
    if (this.run?.version !== run.version || added.version !== run.version) return;
    this.grids.set(name, extended(this.grids.get(name) ?? null, from, added.values, run.layers.length));
  }
}
