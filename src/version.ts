/** @file The package's version, as package.json has it; test/package.test.ts holds the two together. */
export const version = "0.1.0"
