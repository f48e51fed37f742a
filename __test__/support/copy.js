'use strict';

const { cpSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } = require('node:fs');
const { tmpdir } = require('node:os');
const { dirname, join } = require('node:path');

const { ROOT } = require('./child.js');

const PACKAGE = JSON.parse(readFileSync(join(ROOT, 'package.json'), 'utf8'));

/**
 * A copy of the library in a folder of its own, so that a test says what lies around it.
 *
 * @param {import('node:test').TestContext} t removes it afterwards
 * @param {{ platforms?: string[], files?: Record<string, string> }} [options] `platforms` are the ones that
 *   it was published for; without, it is a checkout. `files` is what else is there, by their paths from
 *   the package's folder
 * @returns {{ folder: string, load(module: string): any }}
 */
function copyLibrary(t, { platforms, files = {} } = {}) {
  const project = mkdtempSync(join(tmpdir(), 'smartvpn-copy-'));
  t.after(() => rmSync(project, { recursive: true }));
  const folder = join(project, 'node_modules', PACKAGE.name);
  for (const name of ['index.js', 'lib']) cpSync(join(ROOT, name), join(folder, name), { recursive: true });
  const optionalDependencies = platforms && {
    optionalDependencies: Object.fromEntries(
      platforms.map((platform) => [`${PACKAGE.name}-${platform}`, PACKAGE.version]),
    ),
  };
  const manifest = { 'package.json': JSON.stringify({ ...PACKAGE, ...optionalDependencies }) };
  for (const [path, text] of Object.entries({ ...manifest, ...files })) {
    mkdirSync(dirname(join(folder, path)), { recursive: true });
    writeFileSync(join(folder, path), text);
  }
  return { folder, load: (module) => require(join(folder, module)) };
}

module.exports = { PACKAGE, copyLibrary };
