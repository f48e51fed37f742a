#!/usr/bin/env node
/**
 * Installs the tarballs of `scripts/pack.mjs` in an empty folder and uses what was installed:
 * `node scripts/try-packed.mjs [DIR]`. Needs no root, no registry and no development tools, so that it runs
 * on every platform that there is a tarball for.
 */

import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';

import { ROOT } from './run.mjs';

const { target } = createRequire(import.meta.url)('../lib/platform.js');

/** A program's own part, after it has the classes. */
const USE = `
  const server = new VpnServer();
  await server.start();
  const { publicKey } = await server.generateKeypair();
  await server.close();
  console.log(publicKey);
`;
const PROGRAMS = {
  'imports.mjs': `import { VpnServer } from 'smartvpn';\n${USE}`,
  'requires.cjs': `const { VpnServer } = require('smartvpn');\n(async () => {${USE}})();`,
};

const { version } = JSON.parse(readFileSync(join(ROOT, 'package.json'), 'utf8'));
const platform = target();
const folder = resolve(process.argv[2] ?? join(ROOT, 'dist'));
const tarballs = ['', `-${platform}`].map((suffix) => join(folder, `smartvpn${suffix}-${version}.tgz`));

const project = mkdtempSync(join(tmpdir(), 'smartvpn-try-'));
try {
  writeFileSync(join(project, 'package.json'), '{ "private": true }');
  run('npm', 'install', '--ignore-scripts', '--offline', '--no-audit', '--no-fund', ...tarballs);
  for (const [name, program] of Object.entries(PROGRAMS)) {
    writeFileSync(join(project, name), program);
    assert.match(run(process.execPath, name), /^[\w+/]{43}=\n$/, name);
  }
  const daemon = join(project, `node_modules/smartvpn-${platform}/bin/smartvpn_daemon`);
  assert.equal(run(daemon, '--version'), `smartvpn_daemon ${version}\n`);
  assert.match(run(join(project, 'node_modules/.bin/smartvpn'), '--help'), /smartvpn/);
  console.log(`smartvpn ${version} for ${platform} works with Node ${process.version}.`);
} finally {
  rmSync(project, { recursive: true });
}

function run(command, ...args) {
  return execFileSync(command, args, { cwd: project, encoding: 'utf8', timeout: 120_000 });
}
