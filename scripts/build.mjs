#!/usr/bin/env node
/**
 * Builds the addon and the daemon: `node scripts/build.mjs [--debug]`.
 *
 * Leaves `smartvpn.<platform>.node`, `binding.js` and `binding.d.ts` in the project's folder, where index.js
 * finds them, and a copy of addon and daemon in the platform's package under `npm/`. Cargo knows what has
 * changed; without changes this takes seconds.
 */

import { copyFileSync, existsSync, mkdirSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';

import { ensureDependencies } from './ensure-deps.mjs';
import { ROOT, heading, read, run, tool } from './run.mjs';

const DAEMON = 'smartvpn_daemon';

/**
 * @param {{ debug?: boolean }} [options]
 * @returns {Promise<{ addon: string, daemon: string }>} the files built
 */
export async function build({ debug = false } = {}) {
  await ensureDependencies();
  heading(
    `Building addon and daemon${debug ? ' without optimisation' : ''} (minutes at first, then seconds)`,
  );
  const started = performance.now();
  const triple = await hostTriple();
  await run(tool('napi'), [
    'build',
    '--platform',
    '--target',
    triple,
    '--features',
    'addon,daemon',
    '--js',
    'binding.js',
    '--dts',
    'binding.d.ts',
    ...(debug ? [] : ['--release']),
  ]);
  const files = await findFiles(triple, debug ? 'debug' : 'release');
  console.log(`Built in ${Math.round((performance.now() - started) / 1000)} s:`);
  for (const file of Object.values(files)) console.log(`  ${file}`);
  return files;
}

async function findFiles(triple, profile) {
  const platform = platformOf(triple);
  const target = JSON.parse(await read('cargo', ['metadata', '--format-version=1', '--no-deps']));
  const addon = join(ROOT, `smartvpn.${platform}.node`);
  const daemon = join(target.target_directory, triple, profile, DAEMON);
  for (const file of [addon, daemon]) {
    if (!existsSync(file)) throw new Error(`The build has not made ${file}.`);
  }
  const platformPackage = join(ROOT, 'npm', platform);
  if (existsSync(platformPackage)) {
    mkdirSync(join(platformPackage, 'bin'), { recursive: true });
    replace(join(platformPackage, `smartvpn.${platform}.node`), addon);
    replace(join(platformPackage, 'bin', DAEMON), daemon);
  }
  return { addon, daemon };
}

/** Whoever runs the old file keeps it. */
function replace(file, source) {
  rmSync(file, { force: true });
  copyFileSync(source, file);
}

async function hostTriple() {
  return /^host: (.+)$/m.exec(await read('rustc', ['-vV']))[1];
}

/** What the addon's file is named after: `linux-x64-gnu` of `x86_64-unknown-linux-gnu`. */
function platformOf(triple) {
  const abi = triple.split('-').at(-1);
  return [process.platform, process.arch, ...(process.platform === 'linux' ? [abi] : [])].join('-');
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  try {
    await build({ debug: process.argv.includes('--debug') });
  } catch (error) {
    console.error(error.message);
    process.exitCode = 1;
  }
}
