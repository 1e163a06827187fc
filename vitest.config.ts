import { defineConfig } from "vitest/config"

export default defineConfig({
  test: {
    include: ["test/**/*.test.ts"],
    globalSetup: "test/helpers/build.ts",
    pool: "forks",
    // A fifth of the time is spent waiting, for servers and for children to be killed.
    maxWorkers: 3,
    testTimeout: 120_000,
    // onnxruntime reads this once, in the main thread, before its first session (docs/decisions/004-dependencies.md).
    env: { ORT_DISABLE_TELEMETRY: "1" },
  },
})
