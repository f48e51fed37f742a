#!/usr/bin/env node
/**
 * Publishes the tarballs in `dist/` with their provenance: `node scripts/publish.mjs TAG [--dry-run]`.
 *
 * The platforms' packages go first, so that the main one never depends on what is not there. What is published
 * already is left alone: after a failure, run it again.
 */

import { existsSync, readFileSync, readdirSync } from 'node:fs';
import { join } from 'node:path';
import { parseArgs } from 'node:util';

import { ROOT, heading, read, run } from './run.mjs';

/** The first npm that a registry trusts without a token. */
const OLDEST_NPM = [11, 5, 1];

const { values, positionals } = parseArgs({
  options: { 'dry-run': { type: 'boolean', default: false } },
  allowPositionals: true,
});

try {
  await publish(positionals[0], values['dry-run']);
} catch (error) {
  console.error(error.message);
  process.exitCode = 1;
}

async function publish(tag, dryRun) {
  const { name, version } = JSON.parse(readFileSync(join(ROOT, 'package.json'), 'utf8'));
  if (tag !== `v${version}`) throw new Error(`The tag is ${tag ?? 'missing'}, and the version ${version}.`);
  const platforms = readdirSync(join(ROOT, 'npm')).map((platform) => `${name}-${platform}`);
  const files = [...platforms, name].map((packageName) => [
    packageName,
    join(ROOT, 'dist', `${packageName}-${version}.tgz`),
  ]);
  const missing = files.filter(([, file]) => !existsSync(file)).map(([packageName]) => packageName);
  if (missing.length > 0) throw new Error(`Not packed: ${missing.join(', ')}.`);
  await checkNpm();

  // Versions with a suffix, as 1.0.0-rc.1, are for those who ask for them.
  const channel = version.includes('-') ? 'next' : 'latest';
  for (const [packageName, file] of files) {
    heading(`${packageName} ${version}`);
    if (await isPublished(packageName, version)) {
      console.log('Published already.');
      continue;
    }
    await run('npm', [
      'publish', file, '--provenance', '--access', 'public', '--tag', channel, '--ignore-scripts',
      ...(dryRun ? ['--dry-run'] : []),
    ]); // prettier-ignore
  }
}

async function isPublished(packageName, version) {
  try {
    // Of a version that does not exist npm says nothing; of a package, it says so and fails.
    return (await read('npm', ['view', `${packageName}@${version}`, 'version'])).trim() === version;
  } catch {
    return false;
  }
}

async function checkNpm() {
  const version = (await read('npm', ['--version'])).trim();
  const parts = version.split('.').map(Number);
  const difference = parts.map((part, index) => part - OLDEST_NPM[index]).find((part) => part !== 0) ?? 0;
  if (difference < 0) throw new Error(`npm ${version} is older than ${OLDEST_NPM.join('.')}.`);
}
