/** The models of a comparison, all of them at once. */

import { useEffect, useState } from "preact/hooks";
import type { Run, Runs, Source } from "./contract";

export interface Model {
  readonly run: Run;
  readonly alpha: Float32Array;
}

async function read(source: Source, id: string): Promise<Model> {
  const run = await source.run(id, 0);
  const isKnown = run.columns.some(({ name }) => name === "alpha");
  return { run, alpha: isKnown ? (await source.column(id, "alpha", 0)).values : new Float32Array(0) };
}

/** The models in their order; empty until they are there, and without a comparison. */
export function useModels(source: Source, runs: Runs | null): readonly Model[] {
  const [models, setModels] = useState<readonly Model[]>([]);
  const ids = runs?.comparison ? runs.runs.map(({ id }) => id) : [];
  // The ids stand for the runs. A file that cannot be read is named where its run is shown.
  useEffect(() => {
    Promise.all(ids.map((id) => read(source, id))).then(setModels, () => undefined);
  }, [source, ids.join("\n")]);
  return models;
}
