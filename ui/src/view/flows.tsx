/** alpha of the layers of several models by their depth. */

import { useMemo, useRef } from "preact/hooks";
import type uPlot from "uplot";
import type { Model } from "../data/models";
import { type Flow, flowOf, onOneAxis } from "../logic/flow";
import { number } from "../logic/format";
import { axis, clipped, FONT, palette, usePlot } from "./plot";

const DASHES: readonly number[][] = [[], [7, 4], [2, 3], [9, 3, 2, 3]];
/** Pixels around a point in which the cursor names it. */
const NEAR = 30;

interface FlowsProps {
  models: readonly Model[];
  chosen: string | null;
  theme: string;
}

export function Flows({ models, chosen, theme }: FlowsProps) {
  const flows = useMemo(() => models.map(({ run, alpha }) => flowOf(run.layers, alpha)), [models]);
  const data = useMemo((): uPlot.AlignedData => onOneAxis(flows), [flows]);
  const words = useRef<HTMLSpanElement>(null);
  const styles = useMemo(() => {
    const { series } = palette();
    return models.map((_, i) => ({
      color: series[i % series.length] as string,
      dash: DASHES[Math.floor(i / series.length) % DASHES.length] as number[],
    }));
  }, [models, theme]);
  const { box } = usePlot({
    data,
    height: 260,
    structure: [theme, models, chosen],
    drawing: [],
    build: () => {
      const colors = palette();
      return {
        padding: [10, 12, 0, 0],
        legend: { show: false },
        cursor: { y: false, drag: { x: false, y: false }, points: { show: false } },
        scales: { x: { time: false, range: [-0.02, 1.02] }, y: { range: (_u, low, high) => rangeOf(low, high) } },
        axes: [
          axis(colors, {
            size: 34,
            label: "depth, from the first to the last fitted layer",
            labelSize: 16,
            labelFont: FONT,
          }),
          axis(colors, { size: 44, values: (_u, splits) => splits.map((v) => number(v)) }),
        ],
        series: [
          {},
          ...styles.map(({ color, dash }, i) => ({
            stroke: color,
            dash,
            width: models[i]?.run.id === chosen ? 2.5 : 1.2,
            points: { show: true, size: 5, fill: color },
            spanGaps: true,
          })),
        ],
        hooks: {
          draw: [(u) => drawGuides(u, colors.muted)],
          setCursor: [
            (u) => {
              if (words.current) words.current.textContent = nearestInWords(u, flows, models);
            },
          ],
        },
      };
    },
  });
  return (
    <section class="panel flows" aria-labelledby="flows-title">
      <header class="panel-head">
        <h2 id="flows-title">Alpha by depth, all models</h2>
      </header>
      <figure class="chart">
        <figcaption>
          <span class="keys">
            {models.map(({ run }, i) => (
              <span class="key" key={run.id} title={run.name}>
                <i class={styles[i]?.dash.length ? "dash" : ""} style={{ borderColor: styles[i]?.color }} />
                <bdi>{run.name}</bdi>
              </span>
            ))}
            <span class="key">dotted: 2 and 6</span>
          </span>
          <span class="readout" ref={words} />
        </figcaption>
        <div ref={box} class="plot" role="img" aria-label="alpha of the layers of all models by depth" />
      </figure>
    </section>
  );
}

/** The whole range of alpha, with 2 and 6 in it. */
function rangeOf(low: number | null, high: number | null): [number, number] {
  return [Math.min(1, low ?? 1), Math.max(7, high ?? 7) * 1.04];
}

function drawGuides(u: uPlot, color: string): void {
  clipped(u, (context) => {
    context.strokeStyle = color;
    context.setLineDash([2 * devicePixelRatio, 3 * devicePixelRatio]);
    for (const alpha of [2, 6]) {
      context.beginPath();
      context.moveTo(u.bbox.left, u.valToPos(alpha, "y", true));
      context.lineTo(u.bbox.left + u.bbox.width, u.valToPos(alpha, "y", true));
      context.stroke();
    }
  });
}

/** The layer whose point is under the cursor. */
function nearestInWords(u: uPlot, flows: readonly Flow[], models: readonly Model[]): string {
  const { left = -1, top = -1 } = u.cursor;
  let [least, text] = [NEAR, ""];
  flows.forEach((flow, i) => {
    const run = models[i]?.run;
    flow.layers.forEach((layer, k) => {
      const [x, y] = [flow.depth[k] as number, flow.alpha[k] as number];
      const far = Math.hypot(u.valToPos(x, "x") - left, u.valToPos(y, "y") - top);
      if (far >= least) return;
      least = far;
      text = `${run?.name}, ${run?.layers[layer]?.shown}: alpha ${number(y)}`;
    });
  });
  return text;
}
