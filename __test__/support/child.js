'use strict';

const { spawn } = require('node:child_process');
const { once } = require('node:events');
const path = require('node:path');
const { createInterface } = require('node:readline');

const ROOT = path.join(__dirname, '..', '..');

/** What every script of {@link runScript} begins with: a fake addon, and a way to tell the test. */
const PREAMBLE = `
  'use strict';
  const { writeSync } = require('node:fs');
  const { VpnClient, VpnServer } = require('./index.js');
  const { SILENCE, installFakeNative } = require('./__test__/support/fake-native.js');
  const CONFIG = { serverUrl: 'ws://192.0.2.1/', serverPublicKey: 'key' };
  /** Synchronous, so that it also works while the process ends. */
  const say = (line) => writeSync(1, line + '\\n');
  const { engines } = installFakeNative();
  const sayUndo = () => {
    for (const engine of engines) engine.undo = (timeoutMs) => (say('undo ' + (timeoutMs <= 2000)), true);
  };
`;

/**
 * Runs `source` in a Node process of its own until that ends by itself, or for 10 s.
 *
 * @param {string} source
 * @param {(line: string, child: import('node:child_process').ChildProcess) => void} [onLine]
 * @returns {Promise<{ code: number | null, signal: string | null, lines: string[], stderr: string, ms: number }>}
 */
async function runScript(source, onLine) {
  const started = performance.now();
  const child = spawn(process.execPath, ['-e', `${PREAMBLE}\n(async () => {\n${source}\n})();`], {
    cwd: ROOT,
    timeout: 10_000,
    killSignal: 'SIGKILL',
  });
  const lines = [];
  let stderr = '';
  child.stderr.setEncoding('utf8').on('data', (text) => (stderr += text));
  createInterface({ input: child.stdout }).on('line', (line) => {
    lines.push(line);
    onLine?.(line, child);
  });
  const [code, signal] = await once(child, 'close');
  return { code, signal, lines, stderr, ms: performance.now() - started };
}

module.exports = { ROOT, runScript };
