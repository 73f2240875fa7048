// The rooms beside the search and the library, each loaded when it is opened first.

import { lazy } from "./lazy";

export const LibraryMap = lazy(() => import("./library/map").then((module) => module.LibraryMap));
export const Basket = lazy(() => import("./work/basket").then((module) => module.Basket));
export const Jobs = lazy(() => import("./work/jobs").then((module) => module.Jobs));
export const Releases = lazy(() => import("./work/releases").then((module) => module.Releases));
export const AuditPage = lazy(() => import("./work/audit").then((module) => module.AuditPage));
