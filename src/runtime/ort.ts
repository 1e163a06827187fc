/** @file The part of onnxruntime's JavaScript interface that is used, so that any module that has it can be given. */

/** onnxruntime's tensor: `dims` int32-sized, `data` a typed array. */
export interface OrtTensor {
  readonly type: string
  readonly dims: readonly number[]
  readonly data: unknown
}

export interface OrtSession {
  run(
    feeds: Readonly<Record<string, OrtTensor>>,
    fetches: readonly string[] | Readonly<Record<string, OrtTensor | null>>,
  ): Promise<Readonly<Record<string, OrtTensor>>>
  release(): Promise<void>
}

/** onnxruntime-node, onnxruntime-node-gpu, onnxruntime-web: all have these two classes. */
export interface OrtModule {
  readonly InferenceSession: {
    create(model: Uint8Array, options?: Readonly<Record<string, unknown>>): Promise<OrtSession>
  }
  readonly Tensor: new (type: never, data: never, dims: readonly number[]) => OrtTensor
  /** Settings of the whole package: `logLevel`, before its first session. */
  readonly env?: object
  /** onnxruntime-node >= 1.16 lists the execution providers it was built with. */
  listSupportedBackends?(): readonly { readonly name: string; readonly bundled: boolean }[]
}
