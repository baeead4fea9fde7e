/** The layers of a model beside those of another one: before, after, and what changed in words. */

import { useEffect, useMemo, useState } from "preact/hooks";
import type { CellPlace } from "../data/cells";
import type { Column, Comparison, Run, Runs, Source } from "../data/contract";
import { HeldRun } from "../data/held";
import { at, type Grid } from "../data/merge";
import { type Change, type ChangeKey, changesOf, sortedChanges } from "../logic/changes";
import { isComparable } from "../logic/compare";
import { columnValue, number, plural } from "../logic/format";
import { SortHead, type Sorting } from "./sorting";

interface ChangesProps {
  source: Source;
  runs: Runs;
  comparison: Comparison;
  run: Run;
  column: Column;
  setColumn: (name: string) => void;
  grid: Grid | undefined;
  chosen: number;
  select: (layer: number) => void;
  /** Draws the other spectrum of a layer as the baseline. */
  overlay: (place: CellPlace | null, title: string) => void;
}

const HEADS: readonly [ChangeKey, string, boolean][] = [
  ["shown", "layer", false],
  ["before", "before", true],
  ["after", "after", true],
  ["difference", "change", true],
  ["words", "in words", false],
  ["shape", "shape", false],
];

/** The reports of models are one each. */
const REPORT = 0;

export function Changes(props: ChangesProps) {
  const { source, runs, comparison, run, column, grid, chosen, select, overlay } = props;
  const others = runs.runs.filter(({ id }) => id !== run.id);
  const [picked, setPicked] = useState(comparison.base);
  const otherId = (others.find(({ id }) => id === picked) ?? others[0])?.id ?? "";
  const [sorting, sort] = useState<Sorting<ChangeKey>>({ key: "difference", up: false });
  const [version, setVersion] = useState(0);
  const [error, setError] = useState("");
  const held = useMemo(() => new HeldRun(source, otherId, () => setVersion((v) => v + 1)), [source, otherId]);
  useEffect(() => {
    setError("");
    held.refresh().catch((problem: Error) => setError(problem.message));
  }, [held]);
  useEffect(() => held.follow([column.name]), [held, column.name, held.run]);

  const other = held.run;
  const otherGrid = held.grids.get(column.name);
  const changes = useMemo(() => {
    if (!other) return [];
    const of = otherId === comparison.base ? comparison.changes.find((each) => each.run === run.id) : undefined;
    return changesOf(
      { name: run.name, layers: run.layers, read: (layer) => at(grid, REPORT, layer) },
      { name: other.name, layers: other.layers, read: (layer) => at(otherGrid, REPORT, layer) },
      new Map(of?.layers),
    );
  }, [run, other, grid, otherGrid, comparison, otherId, version]);
  const rows = useMemo(() => sortedChanges(changes, sorting.key, sorting.up), [changes, sorting]);
  const there = changes.find(({ here }) => here === chosen)?.there ?? -1;
  const title = other?.name ?? "";
  useEffect(() => {
    overlay(
      other && there >= 0 ? { run: other.id, version: other.version, layer: there, report: REPORT } : null,
      title,
    );
  }, [other?.id, there, title]);
  useEffect(() => () => overlay(null, ""), []);

  return (
    <section class="panel changes" aria-labelledby="changes-title">
      <header class="panel-head">
        <h2 id="changes-title">Changes</h2>
        <label class="pick">
          of{" "}
          <select
            value={column.name}
            title={column.text}
            onChange={(event) => props.setColumn(event.currentTarget.value)}
          >
            {run.columns.filter(isComparable).map((each) => (
              <option key={each.name} value={each.name}>
                {each.label}
              </option>
            ))}
          </select>
        </label>
        <label>
          from{" "}
          <select value={otherId} onChange={(event) => setPicked(event.currentTarget.value)}>
            {others.map(({ id, name }) => (
              <option key={id} value={id}>
                {name.slice(0, 80)}
              </option>
            ))}
          </select>
        </label>
      </header>
      {error && <p class="note">{error}</p>}
      <div class="scroll table" tabIndex={0} role="region" aria-label="Changes of the layers">
        <table>
          <caption>
            {plural(changes.length, "layer")}: before is <bdi>{title}</bdi>, after is <bdi>{run.name}</bdi>. A click on
            a layer draws both spectra.
          </caption>
          <thead>
            <tr>
              {HEADS.map(([key, label, numeric]) => (
                <SortHead key={key} of={key} {...{ label, numeric, sorting, sort }} />
              ))}
            </tr>
          </thead>
          <tbody>
            {rows.map((change) => (
              <Row key={change.name} change={change} column={column} chosen={chosen} select={select} />
            ))}
          </tbody>
        </table>
      </div>
    </section>
  );
}

interface RowProps {
  change: Change;
  column: Column;
  chosen: number;
  select: (layer: number) => void;
}

function Row({ change, column, chosen, select }: RowProps) {
  const { here, shown, difference } = change;
  return (
    <tr class={here === chosen ? "chosen" : ""}>
      <th scope="row" title={shown}>
        {here < 0 ? (
          <bdi class="quiet">{shown}</bdi>
        ) : (
          <button type="button" class="link" aria-current={here === chosen} onClick={() => select(here)}>
            <bdi>{shown}</bdi>
          </button>
        )}
      </th>
      <td class="number">{columnValue(column, change.before)}</td>
      <td class="number">{columnValue(column, change.after)}</td>
      <td class="number">
        {difference > 0 ? "+" : ""}
        {number(difference)}
      </td>
      <td class="in-words">
        <bdi>{change.words}</bdi>
      </td>
      <td>{change.shape}</td>
    </tr>
  );
}
