/** Figures that the measuring and the plotting programs share. */
import { readFileSync } from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';

/** The nearest-rank percentile: the smallest sample that `percent` of all do not exceed. */
export function percentile(samples, percent) {
  const sorted = samples.toSorted((a, b) => a - b);
  return sorted[Math.max(0, Math.ceil((percent / 100) * sorted.length) - 1)];
}

/** The middle one, or the mean of the two in the middle. */
export function median(samples) {
  const sorted = samples.toSorted((a, b) => a - b);
  const half = sorted.length >> 1;
  return sorted.length % 2 === 1 ? sorted[half] : (sorted[half - 1] + sorted[half]) / 2;
}

export function round(number, digits) {
  return Number(number.toFixed(digits));
}

/** The share of all CPUs that is busy during a time, 0 to 1. */
export async function busyShare(milliseconds) {
  const share = busySince();
  await sleep(milliseconds);
  return share();
}

/** Begins to measure; the function returned says what share of all CPUs has been busy since. */
export function busySince() {
  const before = cpuTimes();
  return () => {
    const after = cpuTimes();
    return round((after.busy - before.busy) / Math.max(1, after.all - before.all), 3);
  };
}

/** In ticks: user nice system idle iowait irq softirq steal. */
function cpuTimes() {
  const [line] = readFileSync('/proc/stat', 'utf8').split('\n', 1);
  const times = line.trim().split(/\s+/).slice(1, 9).map(Number);
  const all = times.reduce((sum, time) => sum + time, 0);
  return { all, busy: all - times[3] - times[4] };
}
