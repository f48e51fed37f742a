/** Running other programs, for the scripts beside this one. */

import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';

/** The folder of the project, where all commands run. */
export const ROOT = fileURLToPath(new URL('..', import.meta.url));

/** The path of a development tool. */
export function tool(name) {
  return join(ROOT, 'node_modules', '.bin', name);
}

/** Says what begins now. */
export function heading(text) {
  console.log(`\n=== ${text}`);
}

/**
 * Runs a program that writes to this terminal.
 *
 * @param {string} command
 * @param {string[]} args
 * @param {{ env?: NodeJS.ProcessEnv }} [options] `env` is added to this process's
 * @throws {Error} if it cannot be started or does not succeed
 */
export async function run(command, args, { env } = {}) {
  const child = spawn(command, args, {
    cwd: ROOT,
    env: { ...process.env, ...env },
    stdio: ['ignore', 'inherit', 'inherit'],
  });
  await success(command, args, child);
}

/**
 * Runs a program for what it prints.
 *
 * @param {string} command
 * @param {string[]} args
 * @param {{ cwd?: string, echo?: boolean, env?: NodeJS.ProcessEnv }} [options] `echo` prints it to this terminal,
 *   too
 * @returns {Promise<string>}
 * @throws {Error} if it cannot be started or does not succeed; `output` is what it printed
 */
export async function read(command, args, { cwd = ROOT, echo = false, env } = {}) {
  const child = spawn(command, args, {
    cwd,
    env: { ...process.env, ...env },
    stdio: ['ignore', 'pipe', 'inherit'],
  });
  let output = '';
  child.stdout.setEncoding('utf8').on('data', (text) => {
    output += text;
    if (echo) process.stdout.write(text);
  });
  try {
    await success(command, args, child);
  } catch (error) {
    throw Object.assign(error, { output });
  }
  return output;
}

/** Whether a program is there and does what these arguments ask for. */
export async function works(command, args) {
  try {
    const [code] = await once(spawn(command, args, { cwd: ROOT, stdio: 'ignore' }), 'close');
    return code === 0;
  } catch {
    return false;
  }
}

async function success(command, args, child) {
  const [code, signal] = await once(child, 'close');
  if (code === 0) return;
  const how = signal ? `was ended by ${signal}` : `failed with code ${code}`;
  throw new Error(`\`${[command, ...args].join(' ')}\` ${how}.`);
}
