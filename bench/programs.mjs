/** Where the programs of the peers are, and of what version. */
import { spawnSync } from 'node:child_process';
import { accessSync, constants, readdirSync } from 'node:fs';
import { homedir } from 'node:os';
import { delimiter, join } from 'node:path';

/** How long a program may take to say its version. */
const VERSION_TIMEOUT_MS = 5_000;

/**
 * The path of a program, or `null`. The folder `SMARTVPN_BENCH_BIN` comes first; in it, a program may have its
 * version in its name, as in `wireguard-go-20250522`.
 */
export function findProgram(name) {
  const { SMARTVPN_BENCH_BIN: extra, PATH = '' } = process.env;
  const folders = [...PATH.split(delimiter), '/usr/sbin', '/sbin', join(homedir(), '.cargo', 'bin')];
  const candidates = [
    ...(extra ? versionsOf(name, extra) : []),
    ...folders.filter(Boolean).map((folder) => join(folder, name)),
  ];
  return candidates.find(isExecutable) ?? null;
}

/** Why a peer cannot run here, or `null`. */
export function missingPrograms(names) {
  const missing = names.filter((name) => findProgram(name) === null);
  return missing.length === 0 ? null : `not installed: ${missing.join(', ')}`;
}

/** The first lines of what a program says about itself. */
export function versionOf(path, argument = '--version', lines = 1) {
  const { stdout, stderr } = spawnSync(path, [argument], {
    encoding: 'utf8',
    timeout: VERSION_TIMEOUT_MS,
    killSignal: 'SIGKILL',
  });
  const words = `${stdout ?? ''}${stderr ?? ''}`.trim().split('\n', lines).join(' ');
  return words ? words.slice(0, 100) : 'unknown';
}

function versionsOf(name, folder) {
  try {
    return readdirSync(folder)
      .filter(
        (file) =>
          file === name || (file.startsWith(`${name}-`) && /^[\d.]+$/.test(file.slice(name.length + 1))),
      )
      .toSorted()
      .reverse()
      .map((file) => join(folder, file));
  } catch {
    return [];
  }
}

function isExecutable(path) {
  try {
    accessSync(path, constants.X_OK);
    return true;
  } catch {
    return false;
  }
}
