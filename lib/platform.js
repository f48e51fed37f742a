'use strict';

const { existsSync, readdirSync } = require('node:fs');
const { dirname, join } = require('node:path');

const { VpnError } = require('./error.js');
const { usesMusl } = require('./libc.js');
const { name, optionalDependencies = {}, version } = require('../package.json');

/** The packages of the platforms in a checkout of the sources, where `npm run build` fills one. */
const CHECKOUT = join(__dirname, '..', 'npm');

/** What the platform's package is named after, as `linux-x64-gnu`. */
function target() {
  const parts = [process.platform, process.arch];
  if (process.platform === 'linux') parts.push(usesMusl(process.execPath) ? 'musl' : 'gnu');
  return parts.join('-');
}

/**
 * The addon for this platform, as an absolute path.
 *
 * @throws {VpnError} `unsupported-platform` when there is none, or the package that holds it is not installed
 */
function findAddon() {
  return findFile(`${name}.${target()}.node`);
}

/**
 * The daemon that belongs to this package, as an absolute path.
 *
 * @throws {VpnError} `unsupported-platform` when there is none, or the package that holds it is not installed
 */
function findDaemon() {
  return findFile(join('bin', 'smartvpn_daemon'));
}

function findFile(file) {
  const inCheckout = existsSync(CHECKOUT);
  const platforms = inCheckout ? readdirSync(CHECKOUT) : Object.keys(optionalDependencies).map(withoutName);
  if (platforms.length > 0 && !platforms.includes(target())) {
    fail(`There is no ${name} for ${target()}. It runs on ${platforms.toSorted().join(', ')}.`);
  }
  const path = join(inCheckout ? join(CHECKOUT, target()) : installedFolder(), file);
  if (existsSync(path)) return path;
  return fail(
    inCheckout
      ? `${path} has not been built yet: \`npm run build\` makes it.`
      : `${path} is missing, though its package is installed: install ${name} anew.`,
  );
}

/** The folder of the platform's package, which npm installs as an optional dependency of this one. */
function installedFolder() {
  const packageName = `${name}-${target()}`;
  const remedy = `\`npm install --no-save ${packageName}@${version}\``;
  let manifest;
  try {
    manifest = require.resolve(`${packageName}/package.json`);
  } catch (cause) {
    fail(
      `The package ${packageName}, which holds the addon and the daemon for this platform, is not installed. ` +
        `It comes with ${name} unless that was installed with \`--omit=optional\`, or node_modules was ` +
        `copied from another platform. ${remedy} mends it.`,
      cause,
    );
  }
  // oxlint-disable-next-line node/global-require -- its name is known only now
  const { version: found } = require(manifest);
  if (found !== version) {
    fail(`${packageName} is of version ${found}, and ${name} of ${version}. ${remedy} mends it.`);
  }
  return dirname(manifest);
}

function withoutName(packageName) {
  return packageName.slice(name.length + 1);
}

function fail(message, cause) {
  throw new VpnError('unsupported-platform', message, { cause });
}

module.exports = { findAddon, findDaemon, target };
