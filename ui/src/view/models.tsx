/** Models side by side: the verdict in words, their means, and the correlation with their quality. */

import { useMemo, useState } from "preact/hooks";
import type { Comparison, Layer, ModelChanges } from "../data/contract";
import type { Model } from "../data/models";
import { plural } from "../logic/format";
import { formatHash } from "../logic/hash";
import { isNumeric, sortedRows, withoutEmpty } from "../logic/sheet";
import { SortHead, type Sorting } from "./sorting";

/** More changes than this are in the table of changes only. */
const MOST_CHANGES = 5;

const linkTo = (run: string, layer: string | null): string => formatHash({ run, column: null, layer, step: null });

interface VerdictProps {
  comparison: Comparison;
  models: readonly Model[];
  chosen: string | null;
}

export function Verdict({ comparison, models, chosen }: VerdictProps) {
  const { base, changes, conclusions } = comparison;
  const known = new Map(models.map(({ run }) => [run.id, run]));
  return (
    <section class="panel verdict" aria-labelledby="verdict-title">
      <header class="panel-head">
        <h2 id="verdict-title">Models side by side</h2>
      </header>
      {changes.map((each) => (
        <InWords
          key={each.run}
          changes={each}
          isChosen={each.run === chosen}
          layers={known.get(each.run)?.layers ?? []}
        />
      ))}
      {changes.some(({ layers }) => layers.length > 0) && (
        <p class="note">
          A change is damage only if the model was made from <bdi>{known.get(base)?.name}</bdi>, as by fine-tuning or
          compression.
        </p>
      )}
      {changes.length > 0 && !comparison.by_weights && (
        <p class="note">
          Only spectra are compared here. <code>ww-callbacks analyze MODEL --baseline BASE</code> also compares the
          weights: how far each layer moved, in which directions, and where the change is noise.
        </p>
      )}
      {conclusions.length > 0 && (
        <ul class="lines">
          {conclusions.map((line) => (
            <li key={line}>{line}</li>
          ))}
        </ul>
      )}
      <Sheet
        sheet={comparison.models}
        caption="Means over the counted layers"
        links={models.map(({ run }) => run.id)}
        chosen={chosen}
      />
    </section>
  );
}

export function Correlations({ comparison }: { comparison: Comparison }) {
  return (
    <section class="panel" aria-labelledby="correlations-title">
      <header class="panel-head">
        <h2 id="correlations-title">Correlation with quality</h2>
      </header>
      <Sheet
        sheet={comparison.correlations}
        caption="r and τ of the models, of their shuffled weights, and at equal scale (rms 1)"
      />
    </section>
  );
}

interface InWordsProps {
  changes: ModelChanges;
  isChosen: boolean;
  layers: readonly Layer[];
}

/** How much a model changed; of the model that is shown, also the most serious changes. */
function InWords({ changes, isChosen, layers }: InWordsProps) {
  const more = changes.layers.length - MOST_CHANGES;
  return (
    <>
      <p class="words">
        {isChosen ? <bdi>{changes.text}</bdi> : <a href={linkTo(changes.run, null)}>{changes.text}</a>}
      </p>
      {isChosen && changes.layers.length > 0 && (
        <ul class="lines">
          {changes.layers.slice(0, MOST_CHANGES).map(([index, words]) => (
            <li key={index}>
              <a href={linkTo(changes.run, layers[index]?.name ?? null)}>
                <bdi>{layers[index]?.shown}</bdi>
              </a>
              : {words}
            </li>
          ))}
          {more > 0 && <li class="quiet">and {plural(more, "layer")} more, in the table of changes</li>}
        </ul>
      )}
    </>
  );
}

interface SheetProps {
  sheet: readonly (readonly string[])[];
  caption: string;
  /** Of each row, the run that its first cell leads to. */
  links?: readonly string[];
  chosen?: string | null;
}

/** A table of texts that can be sorted by each column. */
function Sheet({ sheet, caption, links, chosen }: SheetProps) {
  const [sorting, sort] = useState<Sorting<number> | null>(null);
  const [head = [], ...rows] = useMemo(() => withoutEmpty(sheet), [sheet]);
  const order = sorting ? sortedRows(rows, sorting.key, sorting.up) : rows.map((_, i) => i);
  return (
    <div class="scroll table" tabIndex={0} role="region" aria-label={caption}>
      <table>
        <caption>{caption}</caption>
        <thead>
          <tr>
            {head.map((label, i) => (
              <SortHead
                key={label}
                of={i}
                label={label || "conclusion"}
                numeric={isNumeric(rows, i)}
                {...{ sorting, sort }}
              />
            ))}
          </tr>
        </thead>
        <tbody>
          {order.map((index) => (
            <tr key={index} class={links && links[index] === chosen ? "chosen" : ""}>
              {rows[index]?.map((cell, i) =>
                i === 0 ? (
                  <th key={head[i]} scope="row" title={cell}>
                    {links?.[index] === undefined ? cell : <a href={linkTo(links[index], null)}>{cell}</a>}
                  </th>
                ) : (
                  <td key={head[i]} class={isNumeric(rows, i) ? "number" : ""}>
                    {cell}
                  </td>
                ),
              )}
            </tr>
          ))}
        </tbody>
      </table>
    </div>
  );
}
