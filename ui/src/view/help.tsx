/** Keys and signs. */

import type { RefObject } from "preact";

const KEYS: readonly [string, string][] = [
  ["← →", "previous and next step"],
  ["↑ ↓", "in the map: layer above and below"],
  ["n p", "next and previous layer in the order of trouble"],
  ["Home End", "in the map: first and last step"],
  ["b", "pin the spectrum as baseline, or remove it"],
  ["l", "follow the latest step"],
  ["/", "search layers"],
  ["?", "this help"],
];

export function Help({ dialog }: { dialog: RefObject<HTMLDialogElement | null> }) {
  return (
    <dialog ref={dialog} class="help" aria-labelledby="help-title">
      <header class="panel-head">
        <h2 id="help-title">Keys and signs</h2>
        <span class="spacer" />
        <button type="button" onClick={() => dialog.current?.close()}>
          Close
        </button>
      </header>
      <table>
        <caption class="hidden">Keys</caption>
        <tbody>
          {KEYS.map(([key, text]) => (
            <tr key={key}>
              <th scope="row">
                <kbd>{key}</kbd>
              </th>
              <td>{text}</td>
            </tr>
          ))}
        </tbody>
      </table>
      <ul>
        <li>
          A row of the map is a layer, a column is a report. Drag over a chart to see a part of the steps; a double
          click shows all.
        </li>
        <li>
          alpha between 2 and 6 is usual for trained layers. Pale cells have no reliable tail: their alpha means little.
        </li>
        <li>
          A triangle stands where a tail formed and had not been there for three reports. A cross stands where there are
          more correlation traps than ever before.
        </li>
        <li>
          The order of trouble: layers of findings first, as they are listed, then the others by the column that is
          shown.
        </li>
        <li>
          The shuffled spectrum is that of the same weights in random order. What a layer has learned lies beyond it.
        </li>
        <li>The address holds run, column, layer and step: copy it to share a view.</li>
      </ul>
    </dialog>
  );
}
