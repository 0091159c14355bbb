"""API 2.15: keys are chained already, and the bin is still labware that no command loads."""

metadata = {"protocolName": "The bin as labware", "apiLevel": "2.15"}


def run(ctx):  # type: ignore[no-untyped-def]
    tips = ctx.load_labware("opentrons_96_tiprack_300ul", 4)
    plate = ctx.load_labware("nest_96_wellplate_200ul_flat", 1)
    cycler = ctx.load_module("thermocycler")
    pipette = ctx.load_instrument("p300_multi", "left", tip_racks=[tips])
    cycler.open_lid()
    pipette.pick_up_tip()
    pipette.aspirate(20, plate["A1"])
    pipette.dispense(20, ctx.fixed_trash["A1"])
    pipette.drop_tip()
    pipette.pick_up_tip()
    pipette.return_tip()
    pipette.pick_up_tip(tips["A1"])
    pipette.drop_tip()
    cycler.close_lid()
