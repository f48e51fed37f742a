#!/usr/bin/env node
/**
 * Builds the addon and the daemon: `node scripts/build.mjs [--debug] [--target TRIPLE]`.
 *
 * Leaves both in the platform's package under `npm/`, where index.js finds them. Cargo knows what has
 * changed; without changes this takes seconds. With `--target` the build is for another platform, and needs
 * cargo-zigbuild, zig and that platform's standard library of Rust: see docs/releasing.md.
 */

import { copyFileSync, existsSync, mkdirSync, renameSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';

import { ensureDependencies } from './ensure-deps.mjs';
import { ROOT, heading, read, run, tool, works } from './run.mjs';

const FEATURES = 'addon,daemon';
const DAEMON = 'smartvpn_daemon';

/** The oldest glibc that the Node of `engines` runs on, so that nobody who has Node lacks more. */
const GLIBC = '2.28';

/** The names that Node has for the processors of Rust's triples. */
const PROCESSORS = { x86_64: 'x64', aarch64: 'arm64' };

/**
 * @param {{ debug?: boolean, target?: string }} [options] `target` is a triple of Rust's
 * @returns {Promise<{ addon: string, daemon: string }>} the files built
 */
export async function build({ debug = false, target } = {}) {
  await ensureDependencies();
  heading(
    `Building addon and daemon${target ? ` for ${target}` : ''}${debug ? ' without optimisation' : ''} ` +
      '(minutes at first, then seconds)',
  );
  const started = performance.now();
  const { target_directory: targets } = JSON.parse(
    await read('cargo', ['metadata', '--format-version=1', '--no-deps']),
  );
  const built = await (target ? buildFor(target, targets, debug) : buildHere(targets, debug));
  const { addon, daemon } = built;
  const folder = join(ROOT, 'npm', built.platform);
  const files = {
    addon: place(addon, join(folder, `smartvpn.${built.platform}.node`)),
    daemon: place(daemon, join(folder, 'bin', DAEMON)),
  };
  console.log(`Built in ${Math.round((performance.now() - started) / 1000)} s:`);
  for (const file of Object.values(files)) console.log(`  ${file}`);
  return files;
}

/** For the platform of this machine; also writes binding.d.ts, which tells what the addon exports. */
async function buildHere(targets, debug) {
  const triple = /^host: (.+)$/m.exec(await read('rustc', ['-vV']))[1];
  const platform = platformOf(triple);
  const output = join(targets, 'addon');
  await run(tool('napi'), [
    'build', '--platform', '--target', triple, '--features', FEATURES,
    '--output-dir', output, '--no-js', '--dts', 'binding.d.ts',
    ...(debug ? [] : ['--release']),
  ]); // prettier-ignore
  copyFileSync(join(output, 'binding.d.ts'), join(ROOT, 'binding.d.ts'));
  return {
    platform,
    addon: join(output, `smartvpn.${platform}.node`),
    daemon: join(targets, triple, debug ? 'debug' : 'release', DAEMON),
  };
}

/** For any Linux that zig links for. */
async function buildFor(triple, targets, debug) {
  if (!(await works('cargo-zigbuild', ['--version']))) {
    throw new Error('cargo-zigbuild is missing: docs/releasing.md says how to come by it, and by zig.');
  }
  const platform = platformOf(triple);
  const musl = platform.endsWith('musl');
  const args = [
    'zigbuild', '--lib', '--bins', '--features', FEATURES,
    '--target', musl ? triple : `${triple}.${GLIBC}`,
    ...(debug ? [] : ['--release']),
  ]; // prettier-ignore
  // Rust links musl statically by default, which no library can be.
  await run('cargo', args, { env: musl ? { [rustFlags(triple)]: '-C target-feature=-crt-static' } : {} });
  const output = join(targets, triple, debug ? 'debug' : 'release');
  return { platform, addon: join(output, 'libsmartvpn.so'), daemon: join(output, DAEMON) };
}

function rustFlags(triple) {
  return `CARGO_TARGET_${triple.toUpperCase().replaceAll('-', '_')}_RUSTFLAGS`;
}

/** What the platform's package is named after: `linux-x64-gnu` of `x86_64-unknown-linux-gnu`. */
function platformOf(triple) {
  const [, processor, abi] = /^([^-]+)-[^-]+-linux-(gnu|musl)$/.exec(triple) ?? [];
  if (!PROCESSORS[processor]) {
    const known = Object.keys(PROCESSORS).flatMap((name) =>
      ['gnu', 'musl'].map((libc) => `${name}-unknown-linux-${libc}`),
    );
    throw new Error(`smartvpn is not built for ${triple}, but for ${known.join(', ')}.`);
  }
  return `linux-${PROCESSORS[processor]}-${abi}`;
}

/** Puts a copy in the place of the file at `path`. Whoever runs the old one keeps it. */
function place(source, path) {
  if (!existsSync(source)) throw new Error(`The build has not made ${source}.`);
  mkdirSync(dirname(path), { recursive: true });
  copyFileSync(source, `${path}.new`);
  renameSync(`${path}.new`, path);
  return path;
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  try {
    const { values } = parseArgs({ options: { debug: { type: 'boolean' }, target: { type: 'string' } } });
    await build(values);
  } catch (error) {
    console.error(error.message);
    process.exitCode = 1;
  }
}
