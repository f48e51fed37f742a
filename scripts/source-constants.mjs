/**
 * The constants of Rust and JavaScript files, with the comments above them and their values: enough of
 * both languages for numbers, times, and what is computed of them.
 */

/**
 * @typedef {object} Constant
 * @property {string} file from the root
 * @property {string} name `NAME`; in an `impl` `Type::NAME`, in a function `function::NAME`
 * @property {string} type in Rust; '' in JavaScript
 * @property {string} expression
 * @property {string} comment without its signs; of several right below one another, the first one's
 */

/** A span of time, in nanoseconds. */
export class Time {
  constructor(nanos) {
    this.nanos = nanos;
  }
}

/** Values from the first to the last. */
export class Range {
  constructor(from, to) {
    this.from = from;
    this.to = to;
  }
}

const RUST = new RegExp(
  [
    String.raw`(?<comment>(?:^ *///.*\n)*)(?:^ *#\[.*\]\n)*`,
    String.raw`^(?<indent> *)(?:pub(?:\([\w: ]+\))? )?const (?<name>[A-Z]\w*): (?<type>[^=]+?) =\s(?<expression>[^;]+);`,
  ].join(''),
  'gm',
);

const JAVASCRIPT =
  /(?<comment>(?:^\/\*\*(?:(?!\*\/)[^])*\*\/\n)?)^(?<indent>)(?:export )?const (?<name>[A-Z][A-Z\d_]*) = (?<expression>[^;]+);/gm;

/**
 * @param {string} file
 * @param {string} source
 * @returns {Constant[]} those of test code apart
 */
export function readConstants(file, source) {
  const isRust = file.endsWith('.rs');
  const text = isRust ? source.replace(/^( *)#\[cfg\(test\)\]\n\1mod \w+ \{\n[^]*?^\1\}\n/gm, '') : source;
  const constants = [];
  let last;
  for (const match of text.matchAll(isRust ? RUST : JAVASCRIPT)) {
    const { comment, indent, name, type = '', expression } = match.groups;
    const own = proseOf(comment);
    const follows = last !== undefined && text.slice(last.end, match.index) === '\n';
    const constant = {
      file,
      name: [...ownersOf(text.slice(0, match.index), indent), name].join('::'),
      type: type.trim(),
      expression,
      comment: own || (follows ? last.comment : ''),
    };
    constants.push(constant);
    last = { comment: constant.comment, end: match.index + match[0].length };
  }
  return constants;
}

/** The type, trait or function that an indented item at the end of this text is in. */
function ownersOf(text, { length }) {
  if (length === 0) return [];
  const heads = Array.from(text.matchAll(new RegExp(`^ {${length - 4}}\\S.*\\{$`, 'gm')), ([head]) => head);
  const owner = /(?:(?:impl(?:<[^>]*>)?|trait) (?:.* for )?|fn |mod )(\w+)/.exec(heads.at(-1) ?? '')?.[1];
  return owner === undefined ? [] : [owner];
}

/** A comment as prose: without signs and line ends, and with the names of links instead of the links. */
function proseOf(comment) {
  return comment
    .replaceAll(/^ *\/\/\/ ?/gm, '')
    .replaceAll(/^\/\*\* ?| ?\*\/$|^ \* ?/gm, '')
    .replaceAll(/\[`(?:Self::)?([^`]+)`\](?:\([^)]*\))?/g, '`$1`')
    .replaceAll(/\{@link ([^}]+)\}/g, '`$1`')
    .replaceAll(/\s+/g, ' ')
    .trim();
}

/** Finds values: of a constant by its expression, and by those of the constants that it names. */
export class Evaluator {
  #constants;

  /** @param {Constant[]} constants of all files */
  constructor(constants) {
    this.#constants = constants;
  }

  /**
   * @param {Constant} constant
   * @returns {number | Time | Range | null | (number | Time)[]} `null` for `None`
   */
  valueOf(constant) {
    try {
      return new Expression(constant.expression, (path) => this.#lookUp(path, constant)).value();
    } catch (error) {
      throw new Error(`${constant.file}: ${constant.name} = ${constant.expression}: ${error.message}`);
    }
  }

  /** The value of a constant that another one names: one of its own file, else the only one of that name. */
  #lookUp(path, from) {
    const name = path.at(-1);
    const named = this.#constants.filter((constant) => constant.name.split('::').at(-1) === name);
    const [module] = path.slice(-2, -1).filter((part) => !['Self', 'super', 'self', 'crate'].includes(part));
    const choices = [
      named.filter(({ file }) => module === undefined && file === from.file),
      named.filter((constant) => module !== undefined && isIn(constant, module)),
      named.filter(({ file }) => file.endsWith('.rs') === from.file.endsWith('.rs')),
    ];
    const found = choices.find((choice) => choice.length > 0) ?? [];
    if (found.length !== 1) throw new Error(`${path.join('::')} is ${found.length} constants`);
    return this.valueOf(found[0]);
  }
}

/** Whether a path may name this module or type for the one that a constant is in. */
function isIn({ file, name }, module) {
  return name.startsWith(`${module}::`) || new RegExp(`/${module}(?:/mod)?\\.rs$`).test(file);
}

const TOKEN =
  /\s+|(?<number>0x[\da-f_]+|\d[\d_]*(?:\.\d[\d_]*)?(?:e\d+)?)_?(?:[iu](?:\d+|size)|f\d+)?|(?<name>[A-Za-z_]\w*)|(?<sign>::|<<|>>|\*\*|\.\.=|[^])/gy;

/** Of the operators, those of one row bind equally, and more than those of the rows above. */
const OPERATORS = [
  { '|': (a, b) => a + b - Number(BigInt(a) & BigInt(b)) },
  { '<<': (a, b) => a * 2 ** b, '>>': (a, b) => Math.floor(a / 2 ** b) },
  { '+': (a, b) => a + b, '-': (a, b) => a - b },
  { '*': (a, b) => a * b, '/': (a, b) => Math.trunc(a / b), '%': (a, b) => a % b },
  { '**': (a, b) => a ** b },
];

const NANOS = { from_nanos: 1, from_micros: 1e3, from_millis: 1e6, from_secs: 1e9 };

const METHODS = {
  as_nanos: (time) => time,
  as_millis: ({ nanos }) => Math.trunc(nanos / 1e6),
  as_secs: ({ nanos }) => Math.trunc(nanos / 1e9),
  ilog2: (number) => Math.floor(Math.log2(number)),
};

class Expression {
  #tokens;
  #lookUp;

  constructor(text, lookUp) {
    this.#tokens = Array.from(text.matchAll(TOKEN), ({ groups }) => groups).filter(
      ({ number, name, sign }) => number ?? name ?? sign,
    );
    this.#lookUp = lookUp;
  }

  value() {
    const value = this.#range();
    if (this.#tokens.length > 0) throw new Error(`${this.#next} is more than is understood`);
    return value;
  }

  get #next() {
    const [{ number, name, sign } = {}] = this.#tokens;
    return number ?? name ?? sign;
  }

  #take(text) {
    if (text !== undefined && this.#next !== text) throw new Error(`${text} is missing`);
    return this.#tokens.shift() ?? {};
  }

  #takeIf(text) {
    return this.#next === text && this.#take();
  }

  #range() {
    const from = this.#operation(0);
    return this.#takeIf('..=') ? new Range(from, this.#operation(0)) : from;
  }

  #operation(row) {
    if (row === OPERATORS.length) return this.#cast();
    let value = this.#operation(row + 1);
    while (Object.hasOwn(OPERATORS[row], this.#next ?? '')) {
      const operator = OPERATORS[row][this.#take().sign];
      const [left, right] = [value, this.#operation(row + 1)];
      if (typeof left !== 'number' || typeof right !== 'number')
        throw new Error('only numbers are reckoned with');
      value = operator(left, right);
    }
    return value;
  }

  #cast() {
    let value = this.#primary();
    while (true) {
      if (this.#takeIf('as')) {
        this.#take();
      } else if (this.#takeIf('.')) {
        const { name } = this.#take();
        if (!Object.hasOwn(METHODS, name)) throw new Error(`${name}() is not known`);
        this.#arguments();
        value = METHODS[name](value);
      } else {
        return value;
      }
    }
  }

  #primary() {
    if (this.#next === '(') {
      const values = this.#arguments();
      return values.length === 1 ? values[0] : values;
    }
    const { number, name, sign } = this.#take();
    if (number !== undefined) return Number(number.replaceAll('_', ''));
    if (name === undefined) throw new Error(`${sign} is not understood`);
    return this.#path([name]);
  }

  #path(path) {
    while (this.#takeIf('::')) path.push(this.#take().name);
    const [owner, member] = path.slice(-2);
    if (owner === 'None') return null;
    if (owner === 'Duration' && Object.hasOwn(NANOS, member))
      return new Time(this.#arguments()[0] * NANOS[member]);
    const bits = /^u(8|16|32|64)$/.exec(owner)?.[1];
    if (bits && member === 'BITS') return Number(bits);
    if (bits && member === 'MAX') return 2 ** bits - 1;
    return this.#lookUp(path);
  }

  #arguments() {
    const values = [];
    this.#take('(');
    while (!this.#takeIf(')')) {
      values.push(this.#range());
      if (this.#next !== ')') this.#take(',');
    }
    return values;
  }
}
