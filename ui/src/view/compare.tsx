/** Differences from another step of this run, or from another run. */

import { useEffect, useMemo, useState } from "preact/hooks";
import type { Column, Run, Runs, Source } from "../data/contract";
import type { CellPlace } from "../data/cells";
import { HeldRun } from "../data/held";
import { at, type Grid } from "../data/merge";
import { differences, isComparable } from "../logic/compare";
import { columnValue, count, number } from "../logic/format";

interface CompareProps {
  source: Source;
  runs: Runs;
  run: Run;
  column: Column;
  grid: Grid | undefined;
  report: number;
  chosen: number;
  select: (layer: number) => void;
  /** Draws the other spectrum of a layer as the baseline. */
  overlay: (place: CellPlace | null, title: string) => void;
}

const MOST_ROWS = 400;

export function Compare(props: CompareProps) {
  const { source, runs, run, column, grid, report, chosen, overlay } = props;
  const [otherId, setOtherId] = useState("");
  const [step, setStep] = useState("first");
  const [, setVersion] = useState(0);
  const [error, setError] = useState("");
  const held = useMemo(
    () => (otherId && otherId !== run.id ? new HeldRun(source, otherId, () => setVersion((v) => v + 1)) : null),
    [source, otherId, run.id],
  );
  useEffect(() => {
    setError("");
    held?.refresh().catch((problem: Error) => setError(problem.message));
  }, [held]);
  useEffect(() => held?.follow([column.name]), [held, column.name, held?.run]);

  const other = otherId === run.id ? run : (held?.run ?? null);
  const otherGrid = otherId === run.id ? grid : held?.grids.get(column.name);
  const last = (other?.steps.length ?? 0) - 1;
  const there = step === "first" ? 0 : step === "last" ? last : Math.min(last, Number(step));
  const found = useMemo(
    () =>
      other && otherGrid && isComparable(column)
        ? differences(
            run.layers,
            (l) => at(grid, report, l),
            other.layers,
            (l) => at(otherGrid, there, l),
          )
        : [],
    [run, other, grid, otherGrid, column, report, there],
  );
  const name = run.layers[chosen]?.name;
  const layer = other && name !== undefined ? other.layers.findIndex((each) => each.name === name) : -1;
  const title = other ? `${other.name}, step ${count(other.steps[there])}` : "";
  const version = other?.version ?? "";
  useEffect(() => {
    overlay(other && layer >= 0 && there >= 0 ? { run: other.id, version, layer, report: there } : null, title);
  }, [other?.id, version, layer, there, title]);
  useEffect(() => () => overlay(null, ""), []);

  const largest = Math.max(1e-12, ...found.map(({ difference }) => Math.abs(difference)));
  const choices = runs.runs.filter((each) => each.reports);
  return (
    <section class="panel compare" aria-labelledby="compare-title">
      <header class="panel-head">
        <h2 id="compare-title">Compare</h2>
        <span class="quiet">with another step, or another run</span>
      </header>
      <div class="toolbar">
        <label>
          with{" "}
          <select
            value={otherId}
            onChange={(event) => {
              setOtherId(event.currentTarget.value);
              setStep(event.currentTarget.value === run.id ? "first" : "last");
            }}
          >
            <option value="">nothing</option>
            {run.steps.length > 1 && <option value={run.id}>this run, another step</option>}
            {choices
              .filter(({ id }) => id !== run.id)
              .map(({ id, name: runName }) => (
                <option key={id} value={id}>
                  {runName.slice(0, 80)}
                </option>
              ))}
          </select>
        </label>
        {other && last > 0 && (
          <label>
            at step{" "}
            <select value={step} onChange={(event) => setStep(event.currentTarget.value)}>
              <option value="first">first ({count(other.steps[0])})</option>
              <option value="last">last ({count(other.steps[last])})</option>
              {spread(last).map((index) => (
                <option key={index} value={String(index)}>
                  {count(other.steps[index])}
                </option>
              ))}
            </select>
          </label>
        )}
      </div>
      {error && <p class="note">{error}</p>}
      {!otherId && (
        <p class="note">
          Choose a run: layers of the same name are compared, and the spectrum above gets the other one as its baseline.
        </p>
      )}
      {otherId && !isComparable(column) && (
        <p class="note">{column.name} has words, not numbers. Choose another column above the map.</p>
      )}
      {otherId && other && otherGrid && isComparable(column) && found.length === 0 && (
        <p class="note">No layer of the same name has {column.name} in both.</p>
      )}
      {found.length > 0 && (
        <div class="scroll table" tabIndex={0} role="region" aria-label="Differences">
          <table>
            <caption>
              {column.name} at step {count(run.steps[report])}, minus that of <bdi>{title}</bdi>. The largest
              differences come first.
            </caption>
            <thead>
              <tr>
                <th scope="col">layer</th>
                <th scope="col" class="number">
                  here
                </th>
                <th scope="col" class="number">
                  there
                </th>
                <th scope="col" class="number">
                  difference
                </th>
                <th scope="col">
                  <span class="hidden">size</span>
                </th>
              </tr>
            </thead>
            <tbody>
              {found.slice(0, MOST_ROWS).map((row) => (
                <tr key={row.layer} class={row.layer === chosen ? "chosen" : ""}>
                  <th scope="row">
                    <button
                      type="button"
                      class="link"
                      title={run.layers[row.layer]?.shown}
                      onClick={() => props.select(row.layer)}
                    >
                      <bdi>{run.layers[row.layer]?.shown}</bdi>
                    </button>
                  </th>
                  <td class="number">{columnValue(column, row.here)}</td>
                  <td class="number">{columnValue(column, row.there)}</td>
                  <td class="number">
                    {row.difference > 0 ? "+" : ""}
                    {number(row.difference)}
                  </td>
                  <td class="size">
                    <i
                      class={row.difference < 0 ? "minus" : ""}
                      style={{ width: `${(100 * Math.abs(row.difference)) / largest}%` }}
                    />
                  </td>
                </tr>
              ))}
            </tbody>
          </table>
          {found.length > MOST_ROWS && (
            <p class="note">
              The first {MOST_ROWS} of {found.length} layers.
            </p>
          )}
        </div>
      )}
    </section>
  );
}

/** At most 200 reports between the first and the last, evenly spread. */
function spread(last: number): number[] {
  const every = Math.max(1, Math.ceil((last - 1) / 200));
  return Array.from({ length: Math.max(0, Math.ceil((last - 1) / every)) }, (_, i) => 1 + i * every).filter(
    (i) => i < last,
  );
}
