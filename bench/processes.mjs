/** CPU time and memory of processes and of all that descend from them, as /proc tells. */
import { readFileSync, readdirSync, readlinkSync } from 'node:fs';

/** Ticks of /proc/PID/stat in a second: USER_HZ, the same on every processor that Node runs on. */
const TICKS_PER_SEC = 100;

/**
 * User and system time in seconds. Descendants that have ended count if they have been waited for.
 *
 * @param {number[]} pids
 */
export function cpuSeconds(pids) {
  const table = processes();
  const ticks = family(pids, table).map((pid) => table.get(pid).ticks);
  return ticks.reduce((sum, each) => sum + each, 0) / TICKS_PER_SEC;
}

/** The sum of the most memory that each has had in RAM, in MiB. */
export function peakMemory(pids) {
  const kibibytes = family(pids, processes()).map((pid) => {
    const [, peak] = /^VmHWM:\s+(\d+) kB$/m.exec(read(`/proc/${pid}/status`)) ?? [];
    return Number(peak ?? 0);
  });
  return kibibytes.reduce((sum, each) => sum + each, 0) / 1024;
}

/** The processes that are in the network namespace of another one, besides itself. */
export function neighbours(pid) {
  const namespace = networkOf(pid);
  if (namespace === null) return [];
  return numbered('/proc').filter((other) => other !== pid && networkOf(other) === namespace);
}

function family(pids, table) {
  const all = new Set(pids.filter((pid) => table.has(pid)));
  for (let size = 0; size !== all.size;) {
    size = all.size;
    for (const [pid, { parent }] of table) if (all.has(parent)) all.add(pid);
  }
  return [...all];
}

function processes() {
  const table = new Map();
  for (const pid of numbered('/proc')) {
    const text = read(`/proc/${pid}/stat`);
    // The name before may hold anything: state, parent, … utime, stime, cutime, cstime.
    const fields = text.slice(text.lastIndexOf(')') + 2).split(' ');
    if (fields.length < 15) continue;
    const ticks = fields.slice(11, 15).reduce((sum, field) => sum + Number(field), 0);
    table.set(pid, { parent: Number(fields[1]), ticks });
  }
  return table;
}

function numbered(folder) {
  return readdirSync(folder)
    .filter((name) => /^\d+$/.test(name))
    .map(Number);
}

/** Empty where the process has ended meanwhile. */
function read(path) {
  try {
    return readFileSync(path, 'utf8');
  } catch {
    return '';
  }
}

function networkOf(pid) {
  try {
    return readlinkSync(`/proc/${pid}/ns/net`);
  } catch {
    return null;
  }
}
