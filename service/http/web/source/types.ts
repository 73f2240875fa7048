// Names for the parts of the API that the page reads; clients/typescript/schema.ts, made of /openapi.json, says what they are.

import type { Schemas } from "foley-client";

export type Asset = Schemas["AssetBody"];
export type AssetPage = Schemas["AssetPageBody"];
export type Metadata = Asset["metadata"];
export type Value = Exclude<Metadata[string], unknown[]>;
export type Media = Asset["media"];
export type BundleFacts = Schemas["BundleFacts"];
export type Answer = Schemas["SearchAnswerBody"];
export type Result = Schemas["SearchResultBody"];
export type Job = Schemas["JobBody"];
export type JobFile = Schemas["JobFileBody"];
export type Gate = Schemas["Gate"];
export type Release = Schemas["ReleaseDocument"];
export type Finding = Schemas["Finding"];
export type Mark = NonNullable<Schemas["MarkBody"]["mark"]>;
export type Item = Schemas["ItemFields"];
export type Collection = Schemas["CollectionBody"];
export type CollectionRow = Schemas["CollectionRowBody"];
export type Point = Schemas["MapPointBody"];
export type Modality = Asset["modalities"][number];
