/** The findings in words, worst first, and how near the rules are to a stop. */

import type { Finding, Layer, Run } from "../data/contract";
import { count, number, plural } from "../logic/format";
import { Sparkline } from "./time";

interface FindingsProps {
  run: Run;
  show: (layer: number, since: number | null) => void;
}

/** More layers than this are counted only. */
const MOST_LAYERS = 3;

export function Findings({ run, show }: FindingsProps) {
  const held = run.findings.filter((finding) => finding.until === null);
  const gone = run.findings.filter((finding) => finding.until !== null);
  return (
    <section class="panel findings" aria-labelledby="findings-title">
      <header class="panel-head">
        <h2 id="findings-title">Findings</h2>
        <span class="quiet">{summary(run, held)}</span>
      </header>
      {held.length > 0 && (
        <ul class="finding-list">
          {held.map((finding, i) => (
            <Item key={`${finding.kind}${i}`} finding={finding} layers={run.layers} show={show} />
          ))}
        </ul>
      )}
      {gone.length > 0 && (
        <details class="gone">
          <summary>
            {plural(gone.length, "finding")} no longer hold{gone.length === 1 ? "s" : ""}
          </summary>
          <ul class="finding-list">
            {gone.map((finding, i) => (
              <Item key={`${finding.kind}${i}`} finding={finding} layers={run.layers} show={show} />
            ))}
          </ul>
        </details>
      )}
    </section>
  );
}

function summary(run: Run, held: Finding[]): string {
  if (!run.steps.length) return "No results yet: findings come with the first report.";
  if (!held.length) return "Nothing found: no layer stands out at the latest report.";
  const alarms = held.filter(({ alarm }) => alarm).length;
  return `${plural(alarms, "alarm")}, ${plural(held.length - alarms, "notice")}`;
}

function Item({ finding, layers, show }: { finding: Finding; layers: readonly Layer[]; show: FindingsProps["show"] }) {
  const { alarm, until, since } = finding;
  const known = finding.layers.filter((index) => layers[index]);
  const when =
    since === null || finding.text.includes("since step")
      ? ""
      : until === null
        ? `since step ${count(since)}`
        : `steps ${count(since)} to ${count(until)}`;
  const first = known[0];
  return (
    <li class={alarm ? "finding alarm" : "finding"}>
      <button
        type="button"
        class="finding-main"
        disabled={first === undefined}
        onClick={() => first !== undefined && show(first, since)}
      >
        <span class={alarm ? "badge alarm" : "badge"}>{alarm ? "▲ alarm" : "○ notice"}</span>
        <span class="finding-text" title={finding.text}>
          {finding.text}
        </span>
      </button>
      <p class="finding-more">
        {when && <span class="when">{when}</span>}
        {finding.confidence && <span class="quiet">{finding.confidence}</span>}
        {finding.action && (
          <span class="action" title={finding.action}>
            {finding.action}
          </span>
        )}
        {known.slice(0, MOST_LAYERS).map((index) => (
          <button
            type="button"
            class="chip"
            key={index}
            title={layers[index]?.shown}
            onClick={() => show(index, since)}
          >
            <bdi>{layers[index]?.shown}</bdi>
          </button>
        ))}
        {known.length > MOST_LAYERS && (
          <span class="quiet">and {plural(known.length - MOST_LAYERS, "layer")} more</span>
        )}
      </p>
    </li>
  );
}

export function Rules({ run, steps }: { run: Run; steps: readonly number[] }) {
  return (
    <section class="panel rules" aria-labelledby="rules-title">
      <header class="panel-head">
        <h2 id="rules-title">Near a stop?</h2>
        <span class="quiet">100 % would stop the training</span>
      </header>
      {run.stop && (
        <p class="banner serious">
          <span aria-hidden="true">■</span> Stop: {run.stop}
        </p>
      )}
      {run.rules.length === 0 && (
        <p class="note">Stopping is not judged in this run. The early stopping callback adds it.</p>
      )}
      {run.rules.map((rule) => {
        const known = rule.score.filter((value) => value !== null);
        const score = known[known.length - 1] ?? null;
        const percent = score === null ? 0 : Math.round(100 * Math.min(1, Math.max(0, score)));
        return (
          <div class="rule" key={rule.name}>
            <span class="rule-name">{rule.label}</span>
            <meter class="meter" min={0} max={100} value={percent} aria-label={`${rule.label}: ${percent} % of a stop`}>
              {percent} %
            </meter>
            <b class="rule-score">{score === null ? "–" : `${number(percent)} %`}</b>
            <Sparkline rule={rule} steps={steps} />
            {rule.text && <span class="rule-text">{rule.text}</span>}
          </div>
        );
      })}
    </section>
  );
}
